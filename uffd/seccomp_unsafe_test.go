package uffd_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// TestOpenFiltered puts a thread behind a filter like that of a container runtime
// and looks at what it is told.
func TestOpenFiltered(t *testing.T) {
	for _, answer := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		t.Run(answer.Error(), func(t *testing.T) {
			var opened *uffd.FD
			var err error
			installed := make(chan error)
			go func() {
				// Never unlocked: the filter ends with the thread.
				runtime.LockOSThread()
				filtered := filterUserfaultfd(answer)
				if filtered == nil {
					opened, _, err = uffd.OpenBest()
				}
				installed <- filtered
			}()
			if err := <-installed; err != nil {
				t.Skipf("%v; use a kernel with CONFIG_SECCOMP_FILTER", err)
			}
			if opened != nil {
				check(t, opened.Close())
				t.Fatal("the filter had no effect")
			}
			var refused *uffd.OpenError
			if !errors.As(err, &refused) || !errors.Is(err, answer) {
				t.Fatalf("OpenBest = %v; want an OpenError with %v", err, answer)
			}
			var last *uffd.OpenError
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				errors.As(e, &last)
			}
			if !last.UserModeOnly || !slices.Contains(last.Missing, uffd.SyscallFilter) {
				t.Errorf("user mode only %v, missing %v; want %s", last.UserModeOnly, last.Missing, uffd.SyscallFilter)
			}
			if !strings.Contains(err.Error(), "seccomp profile") {
				t.Errorf("error %q lacks the remedy", err)
			}
		})
	}
}

// filterUserfaultfd makes this thread's attempts to make a userfaultfd, by system
// call or by device, end in answer.
func filterUserfaultfd(answer unix.Errno) error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K
		// Offsets in struct seccomp_data: the number, the second argument.
		number, argument = 0, 24
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_USERFAULTFD, Jt: 3},
		{Code: equal, K: unix.SYS_IOCTL, Jf: 3},
		{Code: load, K: argument},
		{Code: equal, K: uffd.USERFAULTFD_IOC_NEW, Jf: 1},
		{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(answer)},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forgo new privileges: %w", err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("install a seccomp filter: %w", errno)
	}
	return nil
}
