package uffd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrGone matches, with errors.Is, the error of a [Result] whose process has
// exited.
var ErrGone = errors.New("process of the userfaultfd is gone")

// Status classifies what the kernel answered to an ioctl on a range.
type Status uint8

// The answers. Except for OK and Partial nothing was done.
const (
	// OK: all of the range was done, and whoever waited for it is awake unless
	// the mode said not to.
	OK Status = iota
	// Partial: the first Result.Done bytes were done and their waiters woken.
	// Why it stopped is not known; continue after them to learn it.
	Partial
	// Again is EAGAIN: the layout of the process is changing. It lasts from the
	// moment that the process begins a removal until its thread runs again after
	// the REMOVE message was read. Nothing signals the end: retry on a timer.
	Again
	// Exists is EEXIST: the first page is present. Its waiters were not woken:
	// use Wake. Later pages were not looked at. On huge pages the kernel (seen
	// on 6.18) answers the same when the pool is exhausted; then the woken thread
	// faults again at once, so bound how often that is repeated.
	Exists
	// NotRegistered is ENOENT: the range is not inside one registered mapping,
	// because it crosses the end of one, or the layout has changed.
	NotRegistered
	// Gone is ESRCH: the process has exited (Linux 4.13 and later).
	Gone
	// NoMemory is ENOMEM: the destination's memory cgroup or the huge page pool
	// is exhausted; see Exists for the latter.
	NoMemory
	// BadSource is EFAULT: the source cannot be read, for one because the file
	// that it maps was truncated.
	BadSource
	// Failed is anything else; see Result.Errno.
	Failed
)

var statusText = [...]string{
	OK:            "done",
	Partial:       "done in part; continue after the part",
	Again:         "memory layout is changing; read the pending messages and retry after a short time",
	Exists:        "page is already present; wake its waiters",
	NotRegistered: "range is not inside one registered mapping; compare it with the regions of the handshake",
	Gone:          "process of the userfaultfd is gone; end its session",
	NoMemory:      "no memory for the page; raise the memory limit of the process or enlarge the huge page pool",
	BadSource:     "source cannot be read; check that its file was not truncated",
	Failed:        "refused by the kernel; check alignment, page size and registration mode of the range",
}

// String says what the status means and what to do about it.
func (s Status) String() string {
	if int(s) < len(statusText) {
		return statusText[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Result is the answer to an ioctl on a range. It is a plain value, so that the
// fault path need not allocate; Err makes an error of it.
type Result struct {
	// Done is how many bytes from the start of the range were done: from 0 to
	// its length, whatever the kernel wrote.
	Done int64
	// Status classifies the answer.
	Status Status
	// Errno is the kernel's error number, 0 for OK.
	Errno unix.Errno
}

// Err returns nil for OK, [ErrClosed] for a closed [FD], and a *[StatusError]
// otherwise.
func (r Result) Err() error {
	switch {
	case r.Status == OK:
		return nil
	case r.Errno == unix.EBADF:
		return ErrClosed
	default:
		return &StatusError{Result: r}
	}
}

// StatusError is a [Result] other than OK. It unwraps to its error number, and
// Gone matches [ErrGone].
type StatusError struct {
	Result Result
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("userfaultfd: %s (%d bytes done): %v", e.Result.Status, e.Result.Done, e.Result.Errno)
}

// Unwrap returns the kernel's error number.
func (e *StatusError) Unwrap() error {
	return e.Result.Errno
}

// Is reports whether target is [ErrGone] and the process is gone.
func (e *StatusError) Is(target error) bool {
	return target == ErrGone && e.Result.Status == Gone
}

// closedResult is what operations on a closed FD return. EBADF has no other
// origin: a number cannot go away under its users.
var closedResult = Result{Status: Failed, Errno: unix.EBADF}

// result classifies the answer to an ioctl on length bytes. done is the field in
// which the kernel reports its progress, preset to 0 by the caller: kernels
// before 6.15 leave it alone when they answer EAGAIN for a changing layout, later
// ones write the negative error number, and ESRCH leaves it alone everywhere.
func result(errno unix.Errno, done int64, length uint64) Result {
	if errno == 0 {
		return Result{Done: int64(length)}
	}
	r := Result{Errno: errno}
	switch errno {
	case unix.EAGAIN:
		r.Status = Again
		// Progress is reported with EAGAIN and with no other error.
		if done > 0 && uint64(done) < length {
			r.Status, r.Done = Partial, done
		}
	case unix.EEXIST:
		r.Status = Exists
	case unix.ENOENT:
		r.Status = NotRegistered
	case unix.ESRCH:
		r.Status = Gone
	case unix.ENOMEM:
		r.Status = NoMemory
	case unix.EFAULT:
		r.Status = BadSource
	default:
		r.Status = Failed
	}
	return r
}
