package uffd

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotPollable is returned by [FD.Wait] where the kernel answers POLLERR: the
// open file was made blocking by another holder, or the API handshake was never
// made.
var ErrNotPollable = errors.New("userfaultfd cannot be polled: it is blocking, or its API handshake is missing")

// Wait blocks until messages can be read, wake is signalled, or the timeout is
// over, whichever is first. A negative timeout waits for ever; wake may be nil.
// It neither reads messages nor drains wake.
//
// The exit of the process is not seen here: the kernel does not report it. Watch
// its pidfd or connection.
func (f *FD) Wait(wake *Event, timeout time.Duration) (readable, woken bool, err error) {
	if !f.d.acquire() {
		return false, false, ErrClosed
	}
	defer f.d.release()
	// A negative number makes the kernel skip the entry.
	fds := [2]unix.PollFd{{Fd: int32(f.d.raw), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
	if wake != nil {
		if !wake.d.acquire() {
			return false, false, ErrClosed
		}
		defer wake.d.release()
		fds[1].Fd = int32(wake.d.raw)
	}
	var limit *unix.Timespec
	if timeout >= 0 {
		remaining := unix.NsecToTimespec(timeout.Nanoseconds())
		limit = &remaining
	}
	for {
		// The system call, unlike the C library's function, writes the
		// remaining time back, so a signal does not prolong the wait.
		_, err := unix.Ppoll(fds[:], limit, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return false, false, fmt.Errorf("poll userfaultfd: %w", err)
		}
	}
	woken = fds[1].Revents&unix.POLLIN != 0
	if fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
		return false, woken, ErrNotPollable
	}
	return fds[0].Revents&unix.POLLIN != 0, woken, nil
}
