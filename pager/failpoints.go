package pager

// The failpoints of the pager, in the order in which a session meets them.
const (
	pointRequestWritten = "request-written" // a session can be found on disk, whoever asked for it was not told
	pointAccepted       = "accepted"        // a VMM connected
	pointHandshakeRead  = "handshake-read"  // its handshake is here, nothing is on disk
	pointJournalWritten = "journal-written" // the session can be adopted, no fault was read
	pointMessageRead    = "message-read"    // faults were read, none is answered
	pointRemoveRead     = "remove-read"     // a REMOVE was read, its pages are not marked
	pointRemoveMarked   = "remove-marked"   // they are marked
	pointBeforeCopy     = "before-copy"     // the content of a page is at hand
	pointAfterCopy      = "after-copy"      // it is installed, nothing is counted

	// Of an adoption:
	pointAdopted = "adopted" // the userfaultfd is here, no range was woken
	pointWoken   = "woken"   // all were, no fault was read

	// Of a handover, at the pager that gives and then at the one that takes:
	pointHandoverMoved    = "handover-moved"    // the journal is another pager's, it does not know yet
	pointHandoverSent     = "handover-sent"     // that pager has the userfaultfd
	pointHandoverReceived = "handover-received" // the userfaultfd is here, the journal was not looked at
	pointHandoverServing  = "handover-serving"  // the session is served, the other pager does not know

	// Of a detach:
	pointPopulated    = "populated"    // every page is in the guest, its memory is registered
	pointUnregistered = "unregistered" // it is not any more, the journal is still there
)

// Failpoints lists the names of all failpoints; see internal/failpoint.
func Failpoints() []string {
	return []string{
		pointRequestWritten, pointAccepted, pointHandshakeRead, pointJournalWritten,
		pointMessageRead, pointRemoveRead, pointRemoveMarked, pointBeforeCopy, pointAfterCopy,
		pointAdopted, pointWoken,
		pointHandoverMoved, pointHandoverSent, pointHandoverReceived, pointHandoverServing,
		pointPopulated, pointUnregistered,
	}
}
