package uffd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// devicePath hands out userfaultfds to whoever may open it (Linux 6.1).
const devicePath = "/dev/userfaultfd"

// Options are the choices of [Open].
type Options struct {
	// UserModeOnly asks for a descriptor that sees faults of user mode code
	// alone, which needs no permission (Linux 5.11). A fault that the kernel
	// takes, for a system call or for KVM, then fails with EFAULT instead of
	// becoming a message.
	UserModeOnly bool
}

// Open makes a userfaultfd for the memory of this process, close-on-exec and
// non-blocking: from /dev/userfaultfd, and where that is missing or not permitted
// with the system call. Where permission is what fails, the error is an
// *[OpenError]. The next call must be [FD.API].
func Open(options Options) (*FD, error) {
	flags := uintptr(unix.O_CLOEXEC | unix.O_NONBLOCK)
	if options.UserModeOnly {
		flags |= UFFD_USER_MODE_ONLY
	}
	raw, device := openDevice(flags)
	if device == nil {
		return own(raw), nil
	}
	if !deviceUnusable(device) {
		return nil, fmt.Errorf("make a userfaultfd with %s: %w", devicePath, device)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
	if errno == 0 {
		return own(int(fd)), nil
	}
	switch errno {
	case unix.EPERM, unix.EACCES, unix.ENOSYS:
		return nil, diagnose(circumstances{
			userModeOnly: options.UserModeOnly,
			device:       device,
			syscall:      errno,
			process:      readProcess(),
		})
	case unix.EINVAL:
		if options.UserModeOnly {
			return nil, &UnsupportedError{Feature: "UFFD_USER_MODE_ONLY", MinimumVersion: "5.11"}
		}
	}
	return nil, fmt.Errorf("make a userfaultfd: %w", errno)
}

// OpenBest makes a userfaultfd that sees all faults where that is permitted, and
// otherwise one that sees those of user mode alone; userModeOnly says which it
// is. The error names both refusals.
func OpenBest() (fd *FD, userModeOnly bool, err error) {
	fd, full := Open(Options{})
	if full == nil {
		return fd, false, nil
	}
	var refused *OpenError
	if !errors.As(full, &refused) {
		return nil, false, full
	}
	fd, err = Open(Options{UserModeOnly: true})
	if err != nil {
		return nil, true, fmt.Errorf("%w; and with UFFD_USER_MODE_ONLY: %w", full, err)
	}
	return fd, true, nil
}

// deviceUnusable reports whether the system call is worth a try after err.
func deviceUnusable(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.EPERM, unix.ENODEV, unix.ENXIO, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func openDevice(flags uintptr) (int, error) {
	device, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), USERFAULTFD_IOC_NEW, flags)
	// Closing the device has no effect on what it handed out.
	_ = unix.Close(device)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
