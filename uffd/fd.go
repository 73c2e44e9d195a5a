package uffd

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrNotUserfaultfd is returned for a descriptor that is something else.
var ErrNotUserfaultfd = errors.New("descriptor is not a userfaultfd")

// linkName is what /proc/<pid>/fd/<n> of a userfaultfd links to.
const linkName = "anon_inode:[userfaultfd]"

// FD is an owned userfaultfd. All methods may be called concurrently, Close
// among them; after Close they return [ErrClosed].
//
// The descriptor acts on the memory of the process that made it, whoever holds
// it: installing, waking, registering and unregistering all work from here.
type FD struct {
	d descriptor
}

// NewFD takes ownership of raw, which must be a userfaultfd, as received over a
// socket. It makes the descriptor close-on-exec and its open file non-blocking:
// the kernel answers POLLERR for a blocking one. On an error raw is closed; the
// error is [ErrNotUserfaultfd] where raw is something else.
func NewFD(raw int) (*FD, error) {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(raw))
	if err == nil && link != linkName {
		err = fmt.Errorf("%w: it is %q", ErrNotUserfaultfd, link)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(raw), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	if err == nil {
		err = unix.SetNonblock(raw, true)
	}
	if err != nil {
		// The first error is the one that says what is wrong.
		_ = unix.Close(raw)
		return nil, fmt.Errorf("take over descriptor %d: %w", raw, err)
	}
	return own(raw), nil
}

// own wraps a descriptor that is known to be a non-blocking userfaultfd.
func own(raw int) *FD {
	return &FD{d: descriptor{raw: raw}}
}

// Close forbids further use. The number is closed now or, when calls are in
// progress, by the last of them; wake those that wait through their [Event].
//
// Closing the last descriptor of a userfaultfd, in whichever process, unregisters
// its memory: pending and later faults then read zeros.
func (f *FD) Close() error {
	return f.d.close()
}

// Use calls fn with the descriptor number, which stays valid until fn returns.
// fn must neither close nor keep it.
func (f *FD) Use(fn func(raw int) error) error {
	if !f.d.acquire() {
		return ErrClosed
	}
	defer f.d.release()
	return fn(f.d.raw)
}

// Duplicate returns a second, independently owned descriptor of the same
// userfaultfd.
func (f *FD) Duplicate() (*FD, error) {
	var dup int
	err := f.Use(func(raw int) (err error) {
		dup, err = unix.FcntlInt(uintptr(raw), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate userfaultfd: %w", err)
	}
	return own(dup), nil
}
