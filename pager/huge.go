package pager

// hugePool is a fixed number of 2 MiB buffers in which huge pages are put together
// before they are copied into the guest. They lie outside the Go heap and are
// mapped at first use.
//
// A session draws from the pool that all sessions share, and when that is empty
// from one of its own: a slow read of one session never keeps another one waiting,
// and memory stays bounded by the shared buffers and one per session.
type hugePool struct {
	free chan []byte // nil elements are not mapped yet
}

// sharedHugeBuffers is the size of the shared pool: 16 MiB.
const sharedHugeBuffers = 8

func newHugePool(n int) *hugePool {
	p := &hugePool{free: make(chan []byte, n)}
	for range n {
		p.free <- nil
	}
	return p
}

// close unmaps the buffers, once all of them have come back.
func (p *hugePool) close() {
	for range cap(p.free) {
		freeOffHeap(<-p.free)
	}
}

// hugeBuffer returns a buffer and the pool to which it must go back.
func (s *session) hugeBuffer() (buf []byte, from *hugePool, err error) {
	select {
	case buf = <-s.sharedHuge.free:
		from = s.sharedHuge
	default:
		buf, from = <-s.ownHuge.free, s.ownHuge
	}
	if buf == nil {
		if buf, err = offHeap[byte](pageSize2M); err != nil {
			from.free <- nil
		}
	}
	return buf, from, err
}
