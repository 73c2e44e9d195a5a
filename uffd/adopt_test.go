package uffd_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

func pidfdOf(t *testing.T, pid int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(pidfd) })
	return pidfd
}

// TestAdopt takes over from a holder that has read a message and never answered.
func TestAdopt(t *testing.T) {
	s := startPages(t, 2)
	call := s.StartRead(page, 1)
	s.fault(t, 1)
	check(t, s.fd.Close()) // the first holder is gone, the child's own is left

	pidfd := pidfdOf(t, s.Pid())
	numbers, err := uffd.Find(s.Pid())
	check(t, err)
	if len(numbers) != 1 {
		t.Fatalf("child has userfaultfds %v; want one", numbers)
	}
	heir, err := uffd.Adopt(pidfd, numbers[0])
	check(t, err)
	closeLater(t, heir)
	s.fd = heir
	if n, err := heir.Read(make([]uffd.Message, 1)); n != 0 || err != nil {
		t.Fatalf("read = %d, %v; want nothing before the wake", n, err)
	}
	s.wantInfo(t, 0, 1)
	// One wake over everything, memory that is not the child's included.
	check(t, heir.Wake(uffd.Range{Start: s.all(0).Start, Len: 1 << 30}))
	s.fault(t, 1)
	content := block(5, 1)
	want(t, heir.Copy(s.at(1, 1).Start, content, 0), uffd.OK, page)
	got, err := call.Wait()
	check(t, err)
	if got[0] != content[0] {
		t.Errorf("read %d; want %d", got[0], content[0])
	}
}

func TestAdoptErrors(t *testing.T) {
	s := startPages(t, 1)
	pidfd := pidfdOf(t, s.Pid())
	if _, err := uffd.Adopt(pidfd, 999); !errors.Is(err, uffd.ErrNoDescriptor) {
		t.Errorf("descriptor that is not there: %v; want %v", err, uffd.ErrNoDescriptor)
	}
	if _, err := uffd.Adopt(pidfd, 0); !errors.Is(err, uffd.ErrNotUserfaultfd) {
		t.Errorf("descriptor of something else: %v; want %v", err, uffd.ErrNotUserfaultfd)
	}
	check(t, s.Kill())
	if _, err := uffd.Adopt(pidfd, 0); !errors.Is(err, uffd.ErrGone) {
		t.Errorf("process that has exited: %v; want %v", err, uffd.ErrGone)
	}
	if _, err := uffd.Find(s.Pid()); !errors.Is(err, uffd.ErrGone) {
		t.Errorf("find in a process that has exited: %v; want %v", err, uffd.ErrGone)
	}
}

// asNobody runs fn with the rights of user 65534, on a thread that ends with it.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cannot become another user; run as root")
	}
	done := make(chan unix.Errno)
	go func() {
		// Never unlocked: the thread ends with the goroutine, its user id is not
		// given to other goroutines.
		runtime.LockOSThread()
		// The bare system call changes this thread alone.
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534)
		if errno == 0 {
			fn()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatalf("become user 65534: %v", errno)
	}
}

func TestAdoptIsRefused(t *testing.T) {
	s := startPages(t, 1)
	pidfd := pidfdOf(t, s.Pid())
	var adopt, find error
	asNobody(t, func() {
		_, adopt = uffd.Adopt(pidfd, 0)
		_, find = uffd.Find(s.Pid())
	})
	if !errors.Is(adopt, unix.EPERM) || !strings.Contains(adopt.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("adopt from another user's process: %v; want EPERM with CAP_SYS_PTRACE named", adopt)
	}
	if !errors.Is(find, unix.EACCES) || !strings.Contains(find.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("find in another user's process: %v; want EACCES with CAP_SYS_PTRACE named", find)
	}
}
