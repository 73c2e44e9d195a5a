package pager

// The failpoints of the pager, in the order in which a session meets them.
const (
	pointAccepted       = "accepted"        // a VMM connected
	pointHandshakeRead  = "handshake-read"  // its handshake is here, nothing is on disk
	pointJournalWritten = "journal-written" // the session can be adopted, no fault was read
	pointMessageRead    = "message-read"    // faults were read, none is answered
	pointRemoveRead     = "remove-read"     // a REMOVE was read, its pages are not marked
	pointRemoveMarked   = "remove-marked"   // they are marked
	pointBeforeCopy     = "before-copy"     // the content of a page is at hand
	pointAfterCopy      = "after-copy"      // it is installed, nothing is counted
	pointHandoverMoved  = "handover-moved"  // the journal is another pager's, it does not know yet
	pointHandoverSent   = "handover-sent"   // that pager has the userfaultfd
)

// Failpoints lists the names of all failpoints; see internal/failpoint.
func Failpoints() []string {
	return []string{pointAccepted, pointHandshakeRead, pointJournalWritten, pointMessageRead, pointRemoveRead, pointRemoveMarked, pointBeforeCopy, pointAfterCopy, pointHandoverMoved, pointHandoverSent}
}
