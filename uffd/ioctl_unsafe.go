package uffd

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl is the only place that issues one. arg must point to the structure that
// command belongs to.
func (d *descriptor) ioctl(command uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.raw), command, uintptr(arg))
	return errno
}

// API makes the handshake that must precede everything else, once per
// userfaultfd; what was received from another process has had it. It asks for
// features, which can neither be changed nor asked for later.
//
// The error is an *[UnsupportedError] where the kernel lacks a feature, and
// wraps EINVAL where the handshake was made before. UFFD_FEATURE_EVENT_FORK
// needs CAP_SYS_PTRACE and is EPERM without.
func (f *FD) API(features Features) (API, error) {
	if !f.d.acquire() {
		return API{}, ErrClosed
	}
	defer f.d.release()
	arg := uffdioAPI{api: UFFD_API, features: features}
	errno := f.d.ioctl(UFFDIO_API, unsafe.Pointer(&arg))
	if errno == 0 {
		return API{Features: arg.features, Ioctls: arg.ioctls}, nil
	}
	if errno == unix.EINVAL {
		var unsupported *UnsupportedError
		if err := Supports(features); errors.As(err, &unsupported) {
			return API{}, err
		}
		return API{}, fmt.Errorf("userfaultfd API handshake: it was made before on this descriptor: %w", errno)
	}
	return API{}, fmt.Errorf("userfaultfd API handshake for features %s: %w", features, errno)
}

// Register makes the faults of a range into messages, and returns what can be
// done with the range. Registering again replaces the mode. The error wraps the
// kernel's number: EINVAL for a range that is not anonymous, shared or huge page
// memory or not aligned, EBUSY where another userfaultfd has it, ENOMEM also
// where the process has exited.
func (f *FD) Register(r Range, mode RegisterMode) (Ioctls, error) {
	if !f.d.acquire() {
		return 0, ErrClosed
	}
	defer f.d.release()
	arg := uffdioRegister{rng: uffdioRange{start: r.Start, len: r.Len}, mode: mode}
	if errno := f.d.ioctl(UFFDIO_REGISTER, unsafe.Pointer(&arg)); errno != 0 {
		return 0, fmt.Errorf("register %s with userfaultfd, mode %#x: %w", r, uint64(mode), errno)
	}
	return arg.ioctls, nil
}

// Unregister ends the registration of a range and wakes whoever waits for a
// page of it. Absent pages then read as zeros. The error wraps the kernel's
// number: EINVAL for an unmapped range, ENOMEM also where the process has exited.
func (f *FD) Unregister(r Range) error {
	if !f.d.acquire() {
		return ErrClosed
	}
	defer f.d.release()
	arg := uffdioRange{start: r.Start, len: r.Len}
	if errno := f.d.ioctl(UFFDIO_UNREGISTER, unsafe.Pointer(&arg)); errno != 0 {
		return fmt.Errorf("unregister %s from userfaultfd: %w", r, errno)
	}
	return nil
}

// Copy installs copies of the pages in src from dst on, up to the first that is
// present, and wakes whoever waits for them. Other threads can use a page from
// the moment that it is there, even with UFFDIO_COPY_MODE_DONTWAKE.
//
// dst and the length of src must be multiples of the page size of the
// destination, src itself may begin anywhere. The caller keeps src valid and
// unchanged until Copy returns. src must not be memory that is registered with a
// userfaultfd of this process.
func (f *FD) Copy(dst uint64, src []byte, mode CopyMode) Result {
	if !f.d.acquire() {
		return closedResult
	}
	defer f.d.release()
	return f.d.copyFrom(dst, uintptr(unsafe.Pointer(unsafe.SliceData(src))), uint64(len(src)), mode)
}

// copyFrom is UFFDIO_COPY. The address of the source travels inside a structure,
// where neither the collector nor a growing stack would find it: the directive
// keeps the source alive and off the stack.
//
//go:uintptrescapes
func (d *descriptor) copyFrom(dst uint64, src uintptr, length uint64, mode CopyMode) Result {
	arg := uffdioCopy{dst: dst, src: uint64(src), len: length, mode: mode}
	errno := d.ioctl(UFFDIO_COPY, unsafe.Pointer(&arg))
	return result(errno, arg.copy, length)
}

// ZeroPage installs the shared zero page in a range, up to the first page that
// is present, and wakes whoever waits. A later write is then served by the kernel
// without a message. It is EINVAL on huge pages: Copy zeros there.
func (f *FD) ZeroPage(r Range, mode ZeroPageMode) Result {
	if !f.d.acquire() {
		return closedResult
	}
	defer f.d.release()
	arg := uffdioZeropage{rng: uffdioRange{start: r.Start, len: r.Len}, mode: mode}
	errno := f.d.ioctl(UFFDIO_ZEROPAGE, unsafe.Pointer(&arg))
	return result(errno, arg.zeropage, r.Len)
}

// Wake lets whoever waits for a page of the range try again. A thread whose page
// is still absent faults again, and its message comes again. It works while the
// layout is changing, and is no error on unregistered memory or when the process
// has exited.
func (f *FD) Wake(r Range) error {
	if !f.d.acquire() {
		return ErrClosed
	}
	defer f.d.release()
	arg := uffdioRange{start: r.Start, len: r.Len}
	if errno := f.d.ioctl(UFFDIO_WAKE, unsafe.Pointer(&arg)); errno != 0 {
		return fmt.Errorf("wake waiters of %s: %w", r, errno)
	}
	return nil
}

// WriteProtect protects the pages of a range, which must be registered for WP,
// or lifts the protection and wakes whoever waits. It is all or nothing: Done is
// the whole length or 0.
func (f *FD) WriteProtect(r Range, mode WriteProtectMode) Result {
	if !f.d.acquire() {
		return closedResult
	}
	defer f.d.release()
	arg := uffdioWriteprotect{rng: uffdioRange{start: r.Start, len: r.Len}, mode: mode}
	return result(f.d.ioctl(UFFDIO_WRITEPROTECT, unsafe.Pointer(&arg)), 0, r.Len)
}

// Poison marks the absent pages of a range, up to the first that is present, so
// that an access ends in SIGBUS, and wakes whoever waits (Linux 6.6). A page can
// still be installed over the mark later.
func (f *FD) Poison(r Range, mode PoisonMode) Result {
	if !f.d.acquire() {
		return closedResult
	}
	defer f.d.release()
	arg := uffdioPoison{rng: uffdioRange{start: r.Start, len: r.Len}, mode: mode}
	errno := f.d.ioctl(UFFDIO_POISON, unsafe.Pointer(&arg))
	return result(errno, arg.updated, r.Len)
}

// Read takes as many pending messages as fit into msgs, and returns 0 and no
// error when there are none. The kernel hands out page faults before events, in
// one call too, so a page fault can precede the REMOVE that caused it. A message
// is handed out once; only Wake makes a page fault come again. When the process
// has exited there are simply no messages.
func (f *FD) Read(msgs []Message) (int, error) {
	if len(msgs) == 0 {
		return 0, nil
	}
	if !f.d.acquire() {
		return 0, ErrClosed
	}
	defer f.d.release()
	for {
		n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(f.d.raw),
			uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs))*unsafe.Sizeof(msgs[0]))
		switch errno {
		case 0:
			return int(n / unsafe.Sizeof(msgs[0])), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, fmt.Errorf("read userfaultfd: %w", errno)
		}
	}
}
