package uffd

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by every method of an [FD] or an [Event] after Close.
// It is os.ErrClosed.
var ErrClosed = os.ErrClosed

// closedBit marks a descriptor that takes no new users. The bits below it count
// the users.
const closedBit = 1 << 63

// descriptor owns a descriptor number and counts its users.
//
//	open, n users  --Close-->  closed, n users  --last release-->  number closed
//
// The number is valid exactly between a successful acquire and its release.
type descriptor struct {
	raw   int // immutable
	state atomic.Uint64
}

// acquire adds a user. It reports false when the descriptor is closed; then
// there is nothing to release.
func (d *descriptor) acquire() bool {
	for {
		s := d.state.Load()
		if s&closedBit != 0 {
			return false
		}
		if d.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

func (d *descriptor) release() {
	if d.state.Add(^uint64(0)) == closedBit {
		// Linux gives the number back whatever close answers, and nobody is
		// left to tell.
		_ = unix.Close(d.raw)
	}
}

// close forbids new users and closes the number unless users are left; then
// the last one does it.
func (d *descriptor) close() error {
	for {
		s := d.state.Load()
		if s&closedBit != 0 {
			return ErrClosed
		}
		if !d.state.CompareAndSwap(s, s|closedBit) {
			continue
		}
		if s == 0 {
			return unix.Close(d.raw)
		}
		return nil
	}
}
