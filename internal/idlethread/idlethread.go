// Package idlethread makes way: it takes a thread out of the competition for the CPU
// and the disk, for work that nobody waits for.
//
// The package owns nothing and has no state.
package idlethread

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// From linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioClassShift = 13
	ioprioClassBE    = 2
	// ioprioLowest is the last of the eight levels of a class.
	ioprioLowest = 7
)

// lowestNice is the weakest claim to the CPU, see sched(7).
const lowestNice = 19

// Enter gives the calling goroutine a thread of its own with the weakest claims, until
// it ends; the thread ends with it. Goroutines that it starts are not affected.
//
// The class of best effort is kept for I/O: one that is idle may hold a lock of the
// filesystem for as long as others are busy, and they would wait for that. An error
// tells that the kernel refused; the work can be done all the same.
func Enter() error {
	// Never unlocked: the priority belongs to the thread.
	runtime.LockOSThread()
	// Contrary to POSIX, this is about one thread (setpriority(2)).
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, lowestNice); err != nil {
		return fmt.Errorf("lower the thread's priority: setpriority: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioClassBE<<ioprioClassShift|ioprioLowest)
	if errno != 0 {
		return fmt.Errorf("lower the thread's priority: ioprio_set: %w", errno)
	}
	return nil
}
