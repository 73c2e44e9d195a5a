package fcsim

import (
	"sync"

	"golang.org/x/sys/unix"
)

// holdPreemption keeps the runtime's preemption signal from this thread, to which
// the goroutine must be locked, until the returned function is called. The
// runtime copes: it sends no second one while the first is pending, and stops the
// goroutine at its next function call.
func holdPreemption() (restore func()) {
	var set, before unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	// The call fails only for arguments that these are not.
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, &before)
	return func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }
}

// exitOnce delivers the exit code of the process to Main; the first one counts.
type exitOnce struct {
	once sync.Once
	code chan int // capacity 1
}

func (e *exitOnce) set(code int) { e.once.Do(func() { e.code <- code }) }
