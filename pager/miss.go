package pager

import (
	"fmt"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

// task is one page to be installed.
type task struct {
	address uint64    // in the VMM, a multiple of the page size
	offset  uint64    // in the memory image
	read    time.Time // when its fault was read
}

// maxWorkers bounds the reads of one session that are under way at once. A VMM
// has at most 32 vCPUs and a few threads more, and each waits for one page at a
// time: with as many workers a slow read delays only who needs that page.
const maxWorkers = 40

// missQueue holds the faults whose page must be read first, and the workers that
// read. Each session has its own, so that one session's slow disk takes no worker
// from another. Workers are started when there is work for them and stay.
//
// mu is taken after session.order if both are; it is not held across reads or
// installs.
type missQueue struct {
	s       *session
	mu      sync.Mutex
	work    sync.Cond
	tasks   []task                // protected by mu; a ring
	head, n int                   // protected by mu; first task and number of tasks in the ring
	idle    int                   // protected by mu
	workers int                   // protected by mu
	busy    [maxWorkers]time.Time // when the fault was read that each worker answers, or zero; protected by mu
	stopped bool                  // protected by mu
	err     error                 // protected by mu; the first failure
	running sync.WaitGroup
}

func (q *missQueue) init(s *session) {
	q.s = s
	q.work.L = &q.mu
	q.tasks = make([]task, 64)
}

// put hands a task to a worker. It never waits.
func (q *missQueue) put(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == len(q.tasks) {
		grown := make([]task, 2*q.n)
		copy(grown[copy(grown, q.tasks[q.head:]):], q.tasks[:q.head])
		q.tasks, q.head = grown, 0
	}
	q.tasks[(q.head+q.n)%len(q.tasks)] = t
	q.n++
	switch {
	case q.idle >= q.n:
		q.work.Signal()
	case q.workers < maxWorkers:
		q.workers++
		q.running.Add(1)
		go q.run(q.workers - 1)
	}
}

// take waits for a task for a worker. It returns false when the queue was stopped.
func (q *missQueue) take(worker int) (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy[worker] = time.Time{}
	q.idle++
	for q.n == 0 && !q.stopped {
		q.work.Wait()
	}
	q.idle--
	if q.stopped {
		return task{}, false
	}
	t := q.tasks[q.head]
	q.head = (q.head + 1) % len(q.tasks)
	q.n--
	q.busy[worker] = t.read
	return t, true
}

// waiting reports whether demand faults wait for a worker or are being read.
func (q *missQueue) waiting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n > 0 || q.idle < q.workers
}

// oldest returns when the oldest fault was read that the queue has not answered, and
// the zero time if there is none.
func (q *missQueue) oldest() (oldest time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, read := range q.busy[:q.workers] {
		oldest = earlier(oldest, read)
	}
	for i := range q.n {
		oldest = earlier(oldest, q.tasks[(q.head+i)%len(q.tasks)].read)
	}
	return oldest
}

// earlier returns the earlier of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// stop ends the workers and waits for the reads in progress.
func (q *missQueue) stop() {
	q.mu.Lock()
	q.stopped = true
	q.work.Broadcast()
	q.mu.Unlock()
	q.running.Wait()
}

// failure returns the first error of a worker.
func (q *missQueue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

func (q *missQueue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
}

// run is a worker; number is its place in busy.
func (q *missQueue) run(number int) {
	defer q.running.Done()
	s := q.s
	scratch, err := offHeap[byte](control.PageSize)
	defer freeOffHeap(scratch)
	for err == nil {
		t, ok := q.take(number)
		if !ok {
			return
		}
		var out outcome
		if s.mapping.pageSize == control.PageSize {
			out, err = s.serve4K(t, scratch, true)
		} else {
			out, err = s.serve2M(t)
		}
		if err != nil {
			break
		}
		if s.settle(t, out); out == refused {
			// The fault loop repeats it, and must know to set its timer.
			err = s.wake.Signal()
		}
	}
	q.fail(err)
	// The error above is what ends the session; if the loop is gone already,
	// there is nobody left to wake.
	_ = s.wake.Signal()
}

// serve2M installs a huge page: image, zeros and overlays put together in a buffer.
func (s *session) serve2M(t task) (outcome, error) {
	if s.removed.has(t.offset / pageSize2M) {
		return s.install(t, installed{kind: removedPage}, true)
	}
	first := t.offset / memimage.PageSize
	loc, n := s.image.ResolveRun(first, pageSize2M/memimage.PageSize)
	overlaid := s.overlaid(t.offset, pageSize2M)
	if loc.Zero && n == pageSize2M/memimage.PageSize && !overlaid {
		return s.install(t, installed{kind: zeroPage}, true)
	}
	s.counters.misses.Add(1)
	buf, pool, err := s.hugeBuffer()
	if err != nil {
		return resolved, err
	}
	defer func() { pool.free <- buf }()
	if err := s.assemble(buf, first); err != nil {
		return resolved, err
	}
	kind := dataPage
	for offset, data := range s.overlays {
		if offset-t.offset < pageSize2M {
			copy(buf[offset-t.offset:], data)
			kind = overlayPage
		}
	}
	return s.install(t, installed{kind: kind, data: buf}, true)
}

// overlaid reports whether an overlay page lies within n bytes at offset.
func (s *session) overlaid(offset, n uint64) bool {
	for at := range s.overlays {
		if at-offset < n {
			return true
		}
	}
	return false
}

// assemble fills buf with the image's pages from first on.
func (s *session) assemble(buf []byte, first uint64) error {
	for len(buf) > 0 {
		loc, n := s.image.ResolveRun(first, uint64(len(buf)/memimage.PageSize))
		if n == 0 {
			return fmt.Errorf("memory image %s ends before page %d; verify the image", s.imageArg, first)
		}
		part := buf[:n*memimage.PageSize]
		if loc.Zero {
			clear(part)
		} else {
			l, err := s.layerAt(loc, first*memimage.PageSize)
			if err != nil {
				return err
			}
			if err := s.source.stretch(l, part, loc.Offset); err != nil {
				return err
			}
			s.counters.readBytes.Add(uint64(len(part)))
		}
		buf, first = buf[len(part):], first+n
	}
	return nil
}
