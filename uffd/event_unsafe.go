package uffd

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Event wakes an [FD.Wait] from another goroutine. It is an eventfd: signals
// that come before the wait are not lost, and several count as one. All methods
// may be called concurrently.
type Event struct {
	d descriptor
}

// NewEvent returns an event that is not signalled. The caller closes it.
func NewEvent() (*Event, error) {
	raw, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &Event{d: descriptor{raw: raw}}, nil
}

// Signal ends the present or the next Wait. It does not block and does not
// allocate.
func (e *Event) Signal() error {
	return e.transfer(unix.SYS_WRITE, 1)
}

// Drain takes all signals back. Do so before looking at what they announce: what
// is announced later then signals again.
func (e *Event) Drain() error {
	return e.transfer(unix.SYS_READ, 0)
}

// transfer writes a count to the eventfd or reads the present one. EAGAIN means
// that the counter cannot grow, so that it is signalled, or that it is 0.
func (e *Event) transfer(call uintptr, count uint64) error {
	if !e.d.acquire() {
		return ErrClosed
	}
	defer e.d.release()
	for {
		_, _, errno := unix.Syscall(call, uintptr(e.d.raw), uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
		switch errno {
		case 0, unix.EAGAIN:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("signal or drain an eventfd: %w", errno)
		}
	}
}

// Close forbids further use; a Wait in progress goes on and keeps the eventfd
// until it returns.
func (e *Event) Close() error {
	return e.d.close()
}
