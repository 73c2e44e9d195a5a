package pager

import (
	"fmt"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// pageKind says what a page is installed with.
type pageKind uint8

const (
	dataPage pageKind = iota
	zeroPage
	removedPage
	overlayPage
)

// installed is the content of a page to be installed. Data is nil for zeros; it
// lies outside the Go heap or in memory that the session holds.
type installed struct {
	kind pageKind
	data []byte
}

// outcome says what became of an install.
type outcome uint8

const (
	resolved outcome = iota // the page is there and its waiters run
	refused                 // the kernel refuses for now: repeat later
)

// memoryPatience is how long an install is repeated that lacks memory: a memory
// cgroup at its limit and an empty pool of huge pages may pass.
const memoryPatience = 10 * time.Second

// outOfMemory has an install repeated, or fails it when it lacks memory for too long.
func (s *session) outOfMemory(t task, since time.Time, res uffd.Result) (outcome, error) {
	if time.Since(since) < memoryPatience {
		return refused, nil
	}
	return resolved, fmt.Errorf("no memory for a page of %d bytes at offset %d since %v: raise the VMM's memory limit, or the number of huge pages: %w",
		s.mapping.pageSize, t.offset, memoryPatience, res.Err())
}

// echoes notices huge pages that are "present" again and again. With an empty pool
// the kernel answers EEXIST instead of ENOMEM (seen on Linux 6.18): the guest would
// be woken, fault again, and so on for ever.
//
// A fault that was read before the page was last seen to be there proves nothing: the
// vCPUs that wait for one page make a message each, and all but the first meet it. An
// echo is a fault of somebody who had been woken since.
//
// The zero value is ready. mu is a leaf; it is not on the path of 4 KiB pages.
type echoes struct {
	mu   sync.Mutex
	runs map[uint64]echo // by address; protected by mu
}

// echo is a run of EEXISTs of one page, each behind the wake of the one before.
type echo struct {
	first, last time.Time
	n           int
}

const (
	// echoWindow is the time within which the next EEXIST goes on with a run.
	echoWindow = time.Second
	// echoRun is how long a run may be that means nothing: a message may be read
	// whose thread was just woken.
	echoRun = 3
)

// again records an EEXIST for a fault that was read at a time, and reports since when
// the page has echoed; not at all is the zero time.
func (e *echoes) again(address uint64, read time.Time) (since time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs == nil || len(e.runs) >= 1024 {
		e.runs = make(map[uint64]echo)
	}
	now := time.Now()
	run, seen := e.runs[address]
	if seen && !read.After(run.last) {
		return time.Time{}
	}
	if !seen || now.Sub(run.last) > echoWindow {
		run = echo{first: now}
	}
	run.last, run.n = now, run.n+1
	e.runs[address] = run
	if run.n <= echoRun {
		return time.Time{}
	}
	return run.first
}

// install puts a page into the guest and wakes who waits for it. Where a worker
// calls, shared must be true: the page is then checked against REMOVE events once
// more, in one step with the install.
func (s *session) install(t task, page installed, shared bool) (outcome, error) {
	if shared {
		s.order.RLock()
		defer s.order.RUnlock()
		if s.released {
			// The page is not there. If the session goes, the next pager wakes every
			// waiter, and their faults come again; if it stays, this is repeated.
			return refused, nil
		}
		if page.kind != removedPage && s.removed.has(t.offset/s.mapping.pageSize) {
			page = installed{kind: removedPage}
		}
	}
	if err := s.fail.Hit(pointBeforeCopy); err != nil {
		return resolved, err
	}
	var res uffd.Result
	size := s.mapping.pageSize
	rest := uffd.Range{Start: t.address, Len: size}
	for {
		switch {
		case page.data != nil:
			res = s.fd.Copy(rest.Start, page.data[size-rest.Len:], 0)
		case size == control.PageSize:
			res = s.fd.ZeroPage(rest, 0)
		default:
			// The kernel has no zero page for hugetlb: ZEROPAGE is EINVAL there.
			res = s.fd.Copy(rest.Start, s.hugeZeros[:rest.Len], 0)
		}
		if res.Status != uffd.Partial || res.Done <= 0 || uint64(res.Done) >= rest.Len {
			break
		}
		rest.Start, rest.Len = rest.Start+uint64(res.Done), rest.Len-uint64(res.Done)
	}
	if err := s.fail.Hit(pointAfterCopy); err != nil {
		return resolved, err
	}
	switch res.Status {
	case uffd.OK:
		s.counters.count(page.kind)
		return resolved, nil
	case uffd.Exists:
		// Somebody was faster. The kernel does not wake for it, and a waiter
		// that came between that install and now would sleep for ever.
		s.counters.present.Add(1)
		if size == pageSize2M {
			if since := s.echoes.again(t.address, t.read); !since.IsZero() {
				// Its repetition wakes the guest, or finds memory.
				return s.outOfMemory(t, since, res)
			}
		}
		if err := s.fd.Wake(uffd.Range{Start: t.address, Len: size}); err != nil {
			return resolved, fmt.Errorf("waking the waiters of address %#x: %w", t.address, err)
		}
		return resolved, nil
	case uffd.Again, uffd.Partial:
		return refused, nil
	case uffd.Gone:
		return resolved, uffd.ErrGone
	case uffd.NoMemory:
		return s.outOfMemory(t, t.read, res)
	case uffd.NotRegistered:
		return resolved, fmt.Errorf("address %#x (offset %d) is not registered with the userfaultfd any more, the VMM changed its memory layout: %w", t.address, t.offset, res.Err())
	}
	return resolved, fmt.Errorf("installing the page at offset %d: %w", t.offset, res.Err())
}

// settle records the end of a fault, or parks it.
func (s *session) settle(t task, out outcome) {
	if out == refused {
		s.counters.deferred.Add(1)
		s.parked.add(t)
		return
	}
	s.counters.latency.add(time.Since(t.read))
}
