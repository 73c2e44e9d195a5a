package pager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// batch is how many messages one read takes at most. A thread has one fault at a
// time, so a batch holds all that is pending of any ordinary VMM.
const batch = 64

// faultLoop answers page faults until the context ends or a page cannot be served.
//
// One turn: wait, unless experience says that there is something already; read all
// that is there; mark the pages of REMOVE events; then answer the faults. The kernel
// hands out pending faults before events, so within one read the order says nothing,
// and a REMOVE always goes first: the guest's fault behind it must get zeros. The
// other way round is safe as well, because while a REMOVE is unread the kernel refuses
// every install with EAGAIN.
//
// The loop itself never waits for a disk, a worker or a lock that is held across
// I/O: what is not in memory goes to the workers, what the kernel refuses for now
// is parked and repeated on a timer, for nothing announces that it would succeed.
func (s *session) faultLoop(ctx context.Context) error {
	scratch, err := offHeap[byte](control.PageSize)
	if err != nil {
		return err
	}
	defer freeOffHeap(scratch)
	messages := s.messages
	var eager eagerness
	for {
		n := 0
		if eager.tries() {
			if n, err = s.readMessages(messages); err != nil {
				return err
			}
			eager.told(n > 0)
		}
		if n == 0 {
			if err := s.await(ctx); err != nil {
				return err
			}
			if n, err = s.readMessages(messages); err != nil {
				return err
			}
		}
		if err := s.fail.Hit(pointMessageRead); err != nil {
			return err
		}
		now := time.Now()
		s.turn.Store(now.UnixNano())
		for i := range messages[:n] {
			if m := &messages[i]; m.Event() == uffd.UFFD_EVENT_PAGEFAULT {
				s.counters.faults.Add(1)
				address, _ := m.Pagefault()
				if err := s.fault(address, now, scratch); err != nil {
					return err
				}
			}
		}
		if err := s.retryParked(scratch); err != nil {
			return err
		}
		if err := s.misses.failure(); err != nil {
			return err
		}
		s.turn.Store(0)
	}
}

// await waits until there are messages to read, or it is time to retry what is parked.
// An error ends the loop.
func (s *session) await(ctx context.Context) error {
	_, woken, err := s.fd.Wait(s.wake, s.parked.timeout())
	if err != nil {
		return fmt.Errorf("waiting for page faults: %w", err)
	}
	if !woken {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if s.leaving.Load() != nil {
		return errors.Join(s.wake.Drain(), errHandover)
	}
	return s.wake.Drain()
}

// eagerness decides whether to read the next messages without waiting for them first.
// Where the kernel lets the guest run as soon as its page is installed, the guest's
// next fault is often there already, and a wait would be a system call for nothing;
// where they run on different processors it seldom is. So it follows experience.
type eagerness struct {
	score int // of recent tries, 0 to eagerMax
	turns int // since the last wait, or the last try
}

const (
	eagerMax   = 8
	eagerProbe = 16 // turns until something that did not pay is tried once more
	eagerRun   = 64 // turns without a wait, which alone notices that the session ends
)

// tries reports whether to read at once in this turn.
func (e *eagerness) tries() bool {
	e.turns++
	if e.score > 0 {
		return e.turns%eagerRun != 0
	}
	return e.turns%eagerProbe == 0
}

// told takes the outcome of a try.
func (e *eagerness) told(hit bool) {
	if hit {
		e.score = min(e.score+2, eagerMax)
	} else {
		e.score = max(e.score-1, 0)
	}
}

// readMessages reads what is pending and marks removed pages, in one step as seen
// by the workers; see session.order.
func (s *session) readMessages(messages []uffd.Message) (int, error) {
	s.order.Lock()
	defer s.order.Unlock()
	n, err := s.fd.Read(messages)
	if err != nil {
		return 0, fmt.Errorf("reading page faults: %w", err)
	}
	for i := range messages[:n] {
		switch m := &messages[i]; m.Event() {
		case uffd.UFFD_EVENT_PAGEFAULT:
		case uffd.UFFD_EVENT_REMOVE:
			s.counters.removes.Add(1)
			if err := s.fail.Hit(pointRemoveRead); err != nil {
				return 0, err
			}
			s.markRemoved(m.Remove())
			if err := s.fail.Hit(pointRemoveMarked); err != nil {
				return 0, err
			}
		default:
			// Firecracker asks for no other event (1.16), and what an unknown
			// one means for the memory cannot be known.
			return 0, fmt.Errorf("unexpected userfaultfd event %v; the VMM is not a Firecracker that this pager knows", m.Event())
		}
	}
	return n, nil
}

// markRemoved marks the whole pages between two addresses of the VMM. The range may
// cover several regions, and memory that is no guest memory.
func (s *session) markRemoved(start, end uint64) {
	size := s.mapping.pageSize
	for _, r := range s.mapping.regions {
		from, to := max(start, r.start), min(end, r.start+r.size)
		from, to = (from+size-1)&^(size-1), to&^(size-1)
		if from < to {
			s.removed.add((r.offset+from-r.start)/size, (to-from)/size)
		}
	}
}

// fault answers one fault that was read at the time given: at once if that needs no
// waiting, else through a worker. An error ends the session.
func (s *session) fault(address uint64, read time.Time, scratch []byte) error {
	r, ok := s.mapping.find(address)
	if !ok {
		return fmt.Errorf("page fault at %#x, outside of all memory regions of the handshake", address)
	}
	size := s.mapping.pageSize
	address &^= size - 1
	t := task{address: address, offset: r.offset + address - r.start, read: read}
	if size != control.PageSize {
		// Reading and copying 2 MiB takes as long as hundreds of small faults.
		s.misses.put(t)
		return nil
	}
	out, err := s.serve4K(t, scratch, false)
	if errors.Is(err, errWouldWait) {
		s.counters.misses.Add(1)
		s.misses.put(t)
		return nil
	}
	if err != nil {
		return err
	}
	s.settle(t, out)
	return nil
}

// serve4K installs a 4 KiB page. With wait it may read from disk, and then needs
// session.order for the install, which it takes itself. Without, it runs on the
// fault loop, which needs no lock to exclude itself.
func (s *session) serve4K(t task, scratch []byte, wait bool) (outcome, error) {
	page := t.offset / control.PageSize
	if s.removed.has(page) {
		return s.install(t, installed{kind: removedPage}, wait)
	}
	if data := s.overlays[t.offset]; data != nil {
		return s.install(t, installed{kind: overlayPage, data: data}, wait)
	}
	loc := s.image.Resolve(page)
	if loc.Zero {
		return s.install(t, installed{kind: zeroPage}, wait)
	}
	l, err := s.layerAt(loc, t.offset)
	if err != nil {
		return resolved, err
	}
	data, pin, n, err := s.source.page(l, loc.Offset, scratch, wait)
	s.counters.readBytes.Add(uint64(n))
	if err != nil {
		return resolved, err
	}
	defer pin.release()
	return s.install(t, installed{kind: dataPage, data: data}, wait)
}

// layerAt returns the layer of a location, which the index promises to exist.
func (s *session) layerAt(loc memimage.Location, offset uint64) (*layer, error) {
	if l := layerOf(s.layers, loc.Layer); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("memory image %s has no layer for offset %d; verify the image", s.imageArg, offset)
}
