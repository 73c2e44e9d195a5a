package faulter

import (
	"crypto/sha256"
	"time"
)

// Call is an access that the child was told to make, which may be waiting in a
// fault.
type Call[T any] struct {
	pending *pending
	result  func(response) T
}

// Done is closed when the access is over.
func (c *Call[T]) Done() <-chan struct{} {
	return c.pending.done
}

// Wait returns the result of the access once it is over. The error is a
// *[BusError] where it ended in SIGBUS, and wraps [ErrExited] where the child has
// ended.
func (c *Call[T]) Wait() (T, error) {
	<-c.pending.done
	if c.pending.err != nil {
		var none T
		return none, c.pending.err
	}
	return c.result(c.pending.response), nil
}

// None is the result of an access that has none.
type None struct{}

func none(response) None { return None{} }

// StartTouch begins to access eight bytes at each of the offsets in turn, and
// returns how long each access took, measured around that access alone. Offsets
// are multiples of 8. A store writes the offset itself, as a native 64-bit word.
//
// thread is a number of the caller's choice, from 0 to [MaxThreads]-1; calls for
// the same one run on the same thread of the child, one after the other.
func (p *Process) StartTouch(thread int, offsets []uint64, store bool) *Call[[]time.Duration] {
	return &Call[[]time.Duration]{
		p.start(request{Op: opTouch, Thread: thread, Pages: offsets, Store: store}),
		func(r response) []time.Duration { return r.Latencies },
	}
}

// Touch is StartTouch and Wait.
func (p *Process) Touch(thread int, offsets []uint64, store bool) ([]time.Duration, error) {
	return p.StartTouch(thread, offsets, store).Wait()
}

// StartRead begins to read length bytes at an offset of the memory file, page by
// page, on a thread of its own. The range may span regions.
func (p *Process) StartRead(offset, length uint64) *Call[[]byte] {
	return &Call[[]byte]{
		p.start(request{Op: opRead, Offset: offset, Length: length}),
		func(r response) []byte { return r.Data },
	}
}

// Read is StartRead and Wait.
func (p *Process) Read(offset, length uint64) ([]byte, error) {
	return p.StartRead(offset, length).Wait()
}

// StartWrite begins to write data at an offset of the memory file, page by page,
// on a thread of its own. The range may span regions.
func (p *Process) StartWrite(offset uint64, data []byte) *Call[None] {
	return &Call[None]{p.start(request{Op: opWrite, Offset: offset, Data: data}), none}
}

// Write is StartWrite and Wait.
func (p *Process) Write(offset uint64, data []byte) error {
	_, err := p.StartWrite(offset, data).Wait()
	return err
}

// StartRemove begins to give a range back with MADV_DONTNEED, as a balloon does,
// on a thread of its own. It lasts until the REMOVE message was read.
func (p *Process) StartRemove(offset, length uint64) *Call[None] {
	return &Call[None]{p.start(request{Op: opRemove, Offset: offset, Length: length}), none}
}

// Remove is StartRemove and Wait.
func (p *Process) Remove(offset, length uint64) error {
	_, err := p.StartRemove(offset, length).Wait()
	return err
}

// StartSum begins to hash length bytes at an offset of the memory file with
// SHA-256, page by page, on a thread of its own. The range may span regions.
func (p *Process) StartSum(offset, length uint64) *Call[[sha256.Size]byte] {
	return &Call[[sha256.Size]byte]{
		p.start(request{Op: opSum, Offset: offset, Length: length}),
		func(r response) [sha256.Size]byte { return [sha256.Size]byte(r.Data) },
	}
}

// Sum is StartSum and Wait.
func (p *Process) Sum(offset, length uint64) ([sha256.Size]byte, error) {
	return p.StartSum(offset, length).Wait()
}

// CloseFD makes the child close its userfaultfd, which Firecracker never does.
func (p *Process) CloseFD() error {
	return p.do(request{Op: opCloseFD})
}
