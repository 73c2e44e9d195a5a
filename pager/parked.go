package pager

import (
	"sync"
	"time"
)

// parkedPages are installs that the kernel refused with EAGAIN: the guest is just
// changing its memory layout (madvise of a balloon). The refusal outlives the
// reading of the REMOVE event until the guest's thread has run on, and nothing
// announces its end, so they are repeated on a timer.
//
// The zero value is empty. mu is a leaf.
type parkedPages struct {
	mu    sync.Mutex
	tasks []task // protected by mu
	round []task // the fault loop's, so that a round needs no allocation
	tries int    // the fault loop's: rounds in a row without success
}

// Time between two rounds of retries. A refusal lasts microseconds to a few
// milliseconds (4 to 14 at worst, measured on Linux 6.18 with two CPUs).
const (
	parkMin = 100 * time.Microsecond
	parkMax = 5 * time.Millisecond
)

// add parks a page, unless it is parked already; then the older fault counts.
func (p *parkedPages) add(t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.tasks {
		if have.address == t.address {
			return
		}
	}
	p.tasks = append(p.tasks, t)
}

// timeout returns how long the fault loop may wait: for ever when nothing is parked.
func (p *parkedPages) timeout() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tasks) == 0 {
		return -1
	}
	return min(parkMin<<min(p.tries, 10), parkMax)
}

// oldest returns when the oldest fault was read that is parked, or the zero time.
func (p *parkedPages) oldest() (oldest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tasks {
		oldest = earlier(oldest, t.read)
	}
	return oldest
}

// take returns what is parked and empties it. The slice is valid until the next call.
func (p *parkedPages) take() []task {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks, p.round = p.round[:0], p.tasks
	return p.round
}

// retryParked repeats what is parked, once.
func (s *session) retryParked(scratch []byte) error {
	tasks := s.parked.take()
	before := s.counters.deferred.Load()
	for _, t := range tasks {
		if err := s.fault(t.address, t.read, scratch); err != nil {
			return err
		}
	}
	if len(tasks) > 0 && s.counters.deferred.Load()-before >= uint64(len(tasks)) {
		s.parked.tries++
	} else {
		s.parked.tries = 0
	}
	return nil
}
