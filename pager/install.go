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
func (s *session) outOfMemory(t task, res uffd.Result) (outcome, error) {
	if time.Since(t.read) < memoryPatience {
		return refused, nil
	}
	return resolved, fmt.Errorf("no memory for a page of %d bytes at offset %d since %v: raise the VMM's memory limit, or the number of huge pages: %w",
		s.mapping.pageSize, t.offset, memoryPatience, res.Err())
}

// echoes notices huge pages that are "present" again and again. With an empty pool
// the kernel answers EEXIST instead of ENOMEM (seen on Linux 6.18): the guest would
// be woken, fault again, and so on for ever. A page that is there is met once, or a
// few times by several vCPUs at the same moment.
//
// The zero value is ready. mu is a leaf; it is not on the path of 4 KiB pages.
type echoes struct {
	mu   sync.Mutex
	last map[uint64]time.Time // of an EEXIST, by address; protected by mu
}

// echoWindow is the time within which a second EEXIST of a page is an echo.
const echoWindow = time.Second

// again records an EEXIST and reports whether it is an echo.
func (e *echoes) again(address uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == nil || len(e.last) >= 1024 {
		e.last = make(map[uint64]time.Time)
	}
	now := time.Now()
	before, seen := e.last[address]
	e.last[address] = now
	return seen && now.Sub(before) < echoWindow
}

// install puts a page into the guest and wakes who waits for it. Where a worker
// calls, shared must be true: the page is then checked against REMOVE events once
// more, in one step with the install.
func (s *session) install(t task, page installed, shared bool) (outcome, error) {
	if shared {
		s.order.RLock()
		defer s.order.RUnlock()
		if s.released {
			// The next pager wakes every waiter, and their faults come again.
			return resolved, nil
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
		if err := s.fd.Wake(uffd.Range{Start: t.address, Len: size}); err != nil {
			return resolved, fmt.Errorf("waking the waiters of address %#x: %w", t.address, err)
		}
		if size == pageSize2M && s.echoes.again(t.address) {
			return s.outOfMemory(t, res)
		}
		return resolved, nil
	case uffd.Again, uffd.Partial:
		return refused, nil
	case uffd.Gone:
		return resolved, uffd.ErrGone
	case uffd.NoMemory:
		return s.outOfMemory(t, res)
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
