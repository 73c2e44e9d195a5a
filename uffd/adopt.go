package uffd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrNoDescriptor is returned by [Adopt] when the process has no such
// descriptor.
var ErrNoDescriptor = errors.New("process has no such descriptor")

// Find returns the numbers of all userfaultfds that process pid holds, in
// ascending order; several numbers can be the same userfaultfd. It needs the
// permission to trace the process. The error wraps [ErrGone] when there is no
// such process.
func Find(pid int) ([]int, error) {
	// Links are read relative to the directory: a pager does this for each of its
	// sessions before a guest runs on.
	var names []string
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err == nil {
		defer dir.Close()
		names, err = dir.Readdirnames(-1)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("find userfaultfds of process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("find userfaultfds of process %d; run as the same user or with CAP_SYS_PTRACE: %w", pid, err)
	}
	var found []int
	link := make([]byte, len(linkName)+1) // a longer one is another
	for _, name := range names {
		length, err := unix.Readlinkat(int(dir.Fd()), name, link)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed since the directory was read
		}
		if err != nil {
			return nil, fmt.Errorf("find userfaultfds of process %d: %w", pid, err)
		}
		if string(link[:length]) != linkName {
			continue
		}
		n, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("find userfaultfds of process %d: entry %q is not a number: %w", pid, name, err)
		}
		found = append(found, n)
	}
	// Directory order is that of the names as text.
	slices.Sort(found)
	return found, nil
}

// Adopt takes a copy of descriptor target of the process that pidfd refers to,
// which keeps its own (pidfd_getfd, Linux 5.6). Messages that another holder has
// read will not come again by themselves: wake every registered range once.
//
// The error wraps [ErrGone] where the process has exited, [ErrNoDescriptor] and
// [ErrNotUserfaultfd] for a wrong target, and names what is missing where the
// process may not be traced.
func Adopt(pidfd, target int) (*FD, error) {
	raw, err := unix.PidfdGetfd(pidfd, target, 0)
	if err != nil {
		return nil, fmt.Errorf("adopt descriptor %d of another process: %w", target, explainGetfd(err, readProcess()))
	}
	return NewFD(raw)
}

// explainGetfd says what an error of pidfd_getfd means.
func explainGetfd(err error, self process) error {
	switch {
	case errors.Is(err, unix.ESRCH):
		return ErrGone
	case errors.Is(err, unix.EBADF):
		return ErrNoDescriptor
	case errors.Is(err, unix.EPERM) && self.ptrace && self.filtered:
		return fmt.Errorf("a seccomp filter or security module forbids it; allow pidfd_getfd in the container's seccomp profile: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("this process may not trace that one; run as the same user and set kernel.yama.ptrace_scope=0, or have CAP_SYS_PTRACE, and allow pidfd_getfd in the seccomp profile: %w", err)
	case errors.Is(err, unix.ENOSYS) && self.filtered:
		return fmt.Errorf("allow pidfd_getfd in the container's seccomp profile: %w", err)
	case errors.Is(err, unix.ENOSYS):
		return &UnsupportedError{Feature: "pidfd_getfd", MinimumVersion: "5.6"}
	default:
		return err
	}
}
