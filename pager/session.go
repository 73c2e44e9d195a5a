package pager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// session is the paging life of one restored VMM. Its states are those of
// control.State.
//
// Three kinds of goroutine work for it: one runs its life (accept, handshake, fault
// loop, end), one watches for the VMM's exit, and up to maxWorkers read pages that
// are not in memory.
//
// Lock order: order before misses.mu; mu is a leaf and guards nothing that the
// fault path reads.
type session struct {
	id       string
	socket   string
	image    *memimage.Image // one use of it
	layers   []layer         // of image
	imageArg string          // the path as the request gave it
	overlays map[uint64][]byte
	files    *fileReader // what source reads
	source   *source
	// Buffers for huge pages: everybody's, one of this session's, and zeros
	// that are never written, so that the host has no memory for them.
	sharedHuge, ownHuge *hugePool
	hugeZeros           []byte
	log                 *slog.Logger
	timeout             time.Duration // for connecting and for the handshake
	wake                *uffd.Event   // ends the fault loop's wait
	journal             journal
	deposits            *deposits
	// Of the goroutine that runs the session's life: what its deposit is called, once
	// it has one, and the deposit that came back, until it is used.
	deposited string
	returned  *uffd.FD
	reception reception
	fail      *failpoint.Set // see failpoints.go
	counters  counters

	ctx    context.Context         // ends when the session is to end
	cancel context.CancelCauseFunc // ends ctx; the cause says why
	done   chan struct{}           // closed when nothing of the session is left but its record

	mu       sync.Mutex
	state    control.State // protected by mu
	reason   string        // protected by mu
	vmmPID   int           // protected by mu; 0 before a VMM connected
	vmmStart uint64        // protected by mu; set with vmmPID
	guest    *mapping      // protected by mu; nil before the handshake
	// isStranded: see stranded; protected by mu.
	isStranded bool
	populating bool // protected by mu; see Pager.Detach
	populated  bool // set before the session runs: a dead pager was about to detach it
	populators sync.WaitGroup

	// What follows is set before the first fault is served and then read by
	// the fault loop and the workers only.
	fd      *uffd.FD
	mapping *mapping
	// messages are where the kernel writes events, in the session's journal.
	messages []uffd.Message
	removed  removedPages
	// order makes "read a REMOVE event and mark its pages" and "see that a
	// page is not marked and install it" exclude each other: without it a
	// worker could install the image's content behind the zapping of the page.
	// It is held for writing by the fault loop alone, across one non-blocking
	// read, and for reading across one install from memory; never across I/O.
	order  sync.RWMutex
	misses missQueue
	parked parkedPages
	echoes echoes
	// released is set while the session is being handed over: what a worker has
	// at hand then must not be installed any more. Protected by order.
	released bool
	leaving  atomic.Pointer[departure] // where to hand the session over, if anywhere
	turn     atomic.Int64              // when the fault loop began to answer a batch, or 0 while it waits
}

// errClosed is the cause of a session that was closed on request.
var errClosed = errors.New("closed on request")

// errVMMExited is the cause of a session whose VMM ended by itself.
var errVMMExited = errors.New("the VMM exited")

// closing reports whether cause is an ordinary end rather than a failure.
func closing(cause error) bool {
	return errors.Is(cause, errClosed) || errors.Is(cause, errVMMExited) || outliving(cause)
}

// outliving reports whether cause ends the session while its VMM goes on.
func outliving(cause error) bool {
	return errors.Is(cause, errDetached) || errors.Is(cause, errHandedOver)
}

// run is the life of the session. Arrive waits for the VMM, or takes it over from a
// dead pager. It returns when everything the session held is given back.
func (s *session) run(ctx context.Context, listener *net.UnixListener, arrive func(context.Context, *net.UnixListener) (*handshake, error)) {
	defer s.wake.Close()
	// Whatever ends the context must end each wait below.
	stop := context.AfterFunc(ctx, func() {
		listener.SetDeadline(time.Unix(1, 0))
		s.wake.Signal()
	})
	defer stop()
	hs, cause := arrive(ctx, listener)
	if hs == nil {
		listener.Close()
		s.forgetSockets()
		s.over(cause)
		return
	}
	turned := make(chan struct{})
	go func() {
		defer close(turned)
		s.forgetSockets() // here, since faults wait
		s.turnAway(listener)
	}()
	cause = s.serve(ctx, hs)
	s.cancel(cause) // ends a populating that is under way
	if errors.Is(cause, errDetached) {
		if err := s.release(); err != nil {
			cause = err
		}
	}
	// A session that can no longer serve must not leave its VMM frozen, and one
	// that is closed must not leave it without a pager: either way the VMM ends,
	// and it does so before its userfaultfd is closed here. If that were the last
	// one, absent pages would read as zeros from then on.
	if !errors.Is(cause, errVMMExited) && !outliving(cause) {
		if err := hs.vmm.End(killTimeout); err != nil {
			cause = fmt.Errorf("%w; and %w", cause, err)
		}
	}
	listener.Close()
	s.over(cause)
	<-turned
	s.populators.Wait()
	s.misses.stop() // after the VMM's end, since it waits for reads in progress
	hs.close()
}

// killTimeout bounds the wait for a killed VMM's end.
const killTimeout = 5 * time.Second

// over makes the end visible, and drops the journal: there is nothing to adopt any
// more, unless the VMM waits for a pager that may, or another pager has it still.
func (s *session) over(cause error) {
	if !errors.Is(cause, errStranded) && !errors.Is(cause, errRefused) {
		if err := s.journal.end(); err != nil {
			s.log.Error("removing a session's journal", "session", s.id, "error", err)
		}
	}
	if !errors.Is(cause, errStranded) {
		s.withdraw()
	}
	state := control.Failed
	if closing(cause) {
		state = control.Ended
	}
	s.mu.Lock()
	s.state, s.reason, s.isStranded = state, cause.Error(), errors.Is(cause, errStranded)
	s.mu.Unlock()
	s.log.Info("session over", "session", s.id, "state", string(state), "reason", cause.Error())
}

// serve answers the faults of the VMM until the session ends, and returns why.
func (s *session) serve(ctx context.Context, hs *handshake) error {
	s.fd, s.mapping, s.messages, s.removed = hs.fd, hs.mapping, hs.pages.messages, hs.pages.removed
	s.misses.init(s)
	if hs.adopted {
		if err := s.fail.Hit(pointAdopted); err != nil {
			return err
		}
		if err := s.takeUp(); err != nil {
			return err
		}
		if err := s.fail.Hit(pointWoken); err != nil {
			return err
		}
	}
	if s.populated {
		return errDetached
	}
	s.mu.Lock()
	s.guest, s.state = hs.mapping, control.Serving
	s.mu.Unlock()
	s.log.Info("serving", "session", s.id, "adopted", hs.adopted, "vmm_pid", hs.vmm.PID(), "regions", len(hs.mapping.regions), "memory", hs.mapping.size(), "page_size", hs.mapping.pageSize)

	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if hs.vmm.Wait() {
			s.cancel(errVMMExited)
		}
	}()
	err := s.faultLoop(ctx)
	for errors.Is(err, errHandover) {
		if err = s.transfer(hs); err == nil {
			err = errHandedOver
			break
		}
		// The session stays here.
		if err = s.takeUp(); err == nil {
			err = s.faultLoop(ctx)
		}
	}
	hs.vmm.StopWaiting()
	<-watched
	if errors.Is(err, uffd.ErrGone) {
		err = errVMMExited
	}
	return err
}

// stranded reports whether the session is over, but its VMM waits for a pager that
// may adopt it.
func (s *session) stranded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isStranded
}

// turnAway refuses every connection after the first: a session has one VMM.
func (s *session) turnAway(listener *net.UnixListener) {
	listener.SetDeadline(time.Time{})
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		conn.Close()
		s.counters.rejected.Add(1)
		s.log.Warn("connection turned away: the session has its VMM", "session", s.id)
	}
}

// describe returns the session as the control API shows it.
func (s *session) describe() control.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := control.Session{ID: s.id, State: s.state, Reason: s.reason, Socket: s.socket, Image: s.imageArg, VMMPID: s.vmmPID, Stats: s.counters.stats()}
	if s.guest != nil {
		d.PageSize, d.Memory, d.Regions = s.guest.pageSize, s.guest.size(), len(s.guest.regions)
	}
	if s.state == control.Serving {
		oldest := s.oldestFault()
		d.OldestFaultMS, d.Stalled = oldest.Milliseconds(), oldest > control.StallLimit
	}
	return d
}
