// Package control is the wire form of the pager's control API: the bodies that
// travel over {data_dir}/uffd/{version}/control.sock, and their strict decoding.
//
// Server and client share these types. The package owns nothing, opens nothing
// and imports nothing of the pager, so that an orchestrator that only talks to a
// pager links little.
//
// Times are milliseconds or microseconds as the field says, sizes are bytes.
// Errors are application/problem+json with a stable code; see docs/pager-api.md.
package control

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/strictjson"
)

// Limits of the control API.
const (
	// MaxBody is the size of the largest request body that is read.
	MaxBody = strictjson.MaxBody
	// MaxOverlays is the largest number of overlay pages of one session.
	MaxOverlays = 64
	// PageSize is the size of an overlay page in bytes, whatever the size of
	// the pages that back the guest.
	PageSize = 4096
)

// SessionRequest is the body of POST /sessions.
type SessionRequest struct {
	// ID names the session: 1 to 64 characters of a-z, A-Z, 0-9, dot, dash and
	// underscore, not beginning with a dot. A session that ended frees its id.
	ID string `json:"id"`
	// Image is the path of the memory image's manifest, memory.json. It must
	// be absolute, and readable by the pager.
	Image string `json:"image"`
	// Overlays are the pages that this session serves instead of the image's.
	Overlays []Overlay `json:"overlays,omitempty"`
	// ConnectTimeoutMS is how long the VMM may take to connect and to finish
	// its handshake, in milliseconds, 1 to 600000. 0 means 30000.
	ConnectTimeoutMS int64 `json:"connect_timeout_ms,omitempty"`
}

// Overlay is one page that a session serves instead of the image's.
type Overlay struct {
	// Offset is the page's offset in the memory image, a multiple of PageSize.
	Offset uint64 `json:"offset"`
	// Data is the page's content, at most PageSize bytes; zeros follow it.
	Data []byte `json:"data"`
}

// State is the life of a session:
//
//	waiting ─▶ serving ─▶ ended
//	   └──────────┴─────▶ failed
//	adopting ─▶ waiting, serving, ended or failed
//
// A session waits for its VMM to connect and to hand its userfaultfd over, serves
// until the VMM is gone or the session is closed, and has then ended. It fails
// when it can no longer serve every page right; its VMM has then been killed. A
// pager that starts finds the sessions of a dead one adopting.
type State string

// The states of a session.
const (
	Adopting State = "adopting"
	Waiting  State = "waiting"
	Serving  State = "serving"
	Ended    State = "ended"
	Failed   State = "failed"
)

// Active reports whether the session holds resources.
func (s State) Active() bool { return s == Adopting || s == Waiting || s == Serving }

// Session describes one session.
type Session struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Reason says why the session ended or failed.
	Reason string `json:"reason,omitempty"`
	// Socket is where the VMM connects: backend_path of a Uffd mem_backend.
	Socket string `json:"socket"`
	Image  string `json:"image"`
	// VMMPID is the process that connected; 0 before.
	VMMPID int `json:"vmm_pid,omitempty"`
	// PageSize is the size of the pages that back the guest; 0 before the
	// handshake.
	PageSize uint64 `json:"page_size,omitempty"`
	Memory   uint64 `json:"memory_bytes,omitempty"`
	Regions  int    `json:"regions,omitempty"`
	// Stalled tells that a fault has waited longer than StallLimit.
	Stalled bool `json:"stalled,omitempty"`
	// OldestFaultMS is how long the oldest unanswered fault has waited, in
	// milliseconds.
	OldestFaultMS int64 `json:"oldest_fault_ms,omitempty"`
	Stats         Stats `json:"stats"`
}

// StallLimit is how long a fault may wait before its session counts as stalled.
const StallLimit = time.Second

// Stats counts what a session, or all of them together, did.
type Stats struct {
	Faults       uint64 `json:"faults"`        // page fault messages read
	CopiedPages  uint64 `json:"copied_pages"`  // pages installed with data
	ZeroPages    uint64 `json:"zero_pages"`    // pages installed as zeros because the image has none
	RemovedPages uint64 `json:"removed_pages"` // pages installed as zeros after the guest gave them away
	OverlayPages uint64 `json:"overlay_pages"` // pages installed that hold an overlay
	Present      uint64 `json:"present"`       // faults whose page was there already; woken
	Deferred     uint64 `json:"deferred"`      // installs that the kernel asked to repeat (EAGAIN)
	Misses       uint64 `json:"misses"`        // faults that waited for a read
	Removes      uint64 `json:"removes"`       // REMOVE events
	ReadBytes    uint64 `json:"read_bytes"`    // bytes read from layers
	ReadRetries  uint64 `json:"read_retries"`  // reads repeated after an I/O error
	CopyReads    uint64 `json:"copy_reads"`    // reads answered from another owner's copy of the layer
	Rejected     uint64 `json:"rejected"`      // connections turned away
	// Latency is the time from reading a fault message until its page was
	// installed.
	Latency Latency `json:"latency_us"`
}

// Latency is a distribution in microseconds. Percentiles are upper bounds of
// buckets that are at most 6 % wide.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Sessions is the answer to GET /sessions.
type Sessions struct {
	Sessions []Session `json:"sessions"`
}

// HandoverRequest is the body of POST /handover.
type HandoverRequest struct {
	// To is the directory of the pager that takes the sessions,
	// {data_dir}/uffd/{version}, absolute. It must be on the filesystem of this
	// pager's own.
	To string `json:"to"`
}

// Handover is the answer to POST /handover.
type Handover struct {
	// Version is that of the pager that took the sessions.
	Version    string `json:"version"`
	HandedOver int    `json:"handed_over"`
	// Kept are the sessions that could not be handed over, and go on here.
	Kept []KeptSession `json:"kept,omitempty"`
}

// KeptSession says why a session was not handed over.
type KeptSession struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Health is the answer to GET /health.
type Health struct {
	Status   string `json:"status"` // "ok", or "draining"
	Version  string `json:"version"`
	PID      int    `json:"pid"`
	Sessions int    `json:"sessions"` // active ones
	UptimeMS int64  `json:"uptime_ms"`
}

// PagerStats is the answer to GET /stats.
type PagerStats struct {
	Sessions SessionCounts `json:"sessions"`
	Total    Stats         `json:"total"` // since the pager started, ended sessions included
	Cache    CacheStats    `json:"cache"`
	Process  ProcessStats  `json:"process"`
}

// SessionCounts counts sessions by state, since the pager started.
type SessionCounts struct {
	Created uint64 `json:"created"`
	Active  uint64 `json:"active"`
	Ended   uint64 `json:"ended"`
	Failed  uint64 `json:"failed"`
}

// CacheStats describes the shared page cache.
type CacheStats struct {
	MaxBytes  uint64 `json:"max_bytes"`
	UsedBytes uint64 `json:"used_bytes"`
	Hits      uint64 `json:"hits"`
	Misses    uint64 `json:"misses"`
	Evictions uint64 `json:"evictions"`
}

// ProcessStats describes the pager's process.
type ProcessStats struct {
	// ResidentBytes is the process's resident memory, the cache included.
	ResidentBytes uint64 `json:"resident_bytes"`
	// HeapObjects counts all heap objects ever allocated: the difference of
	// two readings bounds the allocations of what lay between.
	HeapObjects uint64 `json:"heap_objects_allocated"`
	Goroutines  int    `json:"goroutines"`
	OpenFiles   int    `json:"open_files"`
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// DecodeSessionRequest reads and checks the body of POST /sessions. Every error
// is a problem whose code is bad_request.
func DecodeSessionRequest(r io.Reader) (SessionRequest, error) {
	var req SessionRequest
	if err := strictjson.Decode(r, &req, "see docs/pager-api.md for the fields"); err != nil {
		return SessionRequest{}, err
	}
	return req, req.Validate()
}

// Validate checks everything about the request that needs no look at the host.
func (r *SessionRequest) Validate() error {
	if !ValidID(r.ID) {
		return bad("use 1 to 64 letters, digits, dots, dashes and underscores, the first one not a dot", "session id %q is not allowed", clip(r.ID))
	}
	if !strings.HasPrefix(r.Image, "/") || strings.ContainsRune(r.Image, 0) {
		return bad("give the absolute path of the image's memory.json", "image path %q is not absolute", clip(r.Image))
	}
	if len(r.Overlays) > MaxOverlays {
		return bad("use fewer, they are meant for a fork's identity", "%d overlay pages are more than %d", len(r.Overlays), MaxOverlays)
	}
	seen := make(map[uint64]bool, len(r.Overlays))
	for _, o := range r.Overlays {
		switch {
		case o.Offset%PageSize != 0:
			return bad("overlay whole pages", "overlay offset %d is not a multiple of %d", o.Offset, PageSize)
		case len(o.Data) == 0 || len(o.Data) > PageSize:
			return bad("give each overlay page its content, base64 in JSON", "overlay at offset %d has %d bytes instead of 1 to %d", o.Offset, len(o.Data), PageSize)
		case seen[o.Offset]:
			return bad("give each page once", "two overlays at offset %d", o.Offset)
		}
		seen[o.Offset] = true
	}
	if r.ConnectTimeoutMS < 0 || r.ConnectTimeoutMS > 600_000 {
		return bad("use 1 to 600000, or leave it out", "connect_timeout_ms %d is out of range", r.ConnectTimeoutMS)
	}
	return nil
}

// ValidID reports whether id may name a session. It is safe as a file name.
func ValidID(id string) bool { return idPattern.MatchString(id) }

func bad(remedy, detail string, args ...any) error {
	return problem.New(http.StatusBadRequest, "bad_request", remedy, detail, args...)
}

// clip keeps what a hostile request can put into a message short.
func clip(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%s… (%d bytes)", s[:80], len(s))
	}
	return s
}
