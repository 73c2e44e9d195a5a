package uffd_test

import (
	"errors"
	"os"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// TestWriteProtect upgrades the child's registration from here, as a process that
// tracks writes of an unmodified Firecracker would.
func TestWriteProtect(t *testing.T) {
	requireFeature(t, uffd.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
	s := startPages(t, 2)
	content := block(3, 2)
	start := s.at(0, 1).Start
	if got := s.fd.Copy(start, content[:page], uffd.UFFDIO_COPY_MODE_WP); got.Status != uffd.Failed || got.Errno != unix.EINVAL {
		t.Fatalf("protected copy without registration: %v, %v; want EINVAL", got.Status, got.Errno)
	}
	ioctls, err := s.fd.Register(s.all(0), uffd.UFFDIO_REGISTER_MODE_MISSING|uffd.UFFDIO_REGISTER_MODE_WP)
	check(t, err)
	if !ioctls.Has(uffd.UFFDIO_WRITEPROTECT) || !ioctls.Has(uffd.UFFDIO_COPY) {
		t.Fatalf("ioctls %#x lack WRITEPROTECT or COPY", uint64(ioctls))
	}
	want(t, s.fd.Copy(start, content, uffd.UFFDIO_COPY_MODE_WP), uffd.OK, 2*page)

	call := s.StartWrite(1, []byte{99})
	if flags := s.fault(t, 0); flags != uffd.UFFD_PAGEFAULT_FLAG_WP|uffd.UFFD_PAGEFAULT_FLAG_WRITE {
		t.Errorf("write to a protected page: flags %#x; want WP|WRITE", uint64(flags))
	}
	want(t, s.fd.WriteProtect(s.at(0, 1), 0), uffd.OK, page)
	_, err = call.Wait()
	check(t, err)
	check(t, s.Write(2, []byte{98})) // free from now on

	want(t, s.fd.WriteProtect(s.at(0, 1), uffd.UFFDIO_WRITEPROTECT_MODE_WP), uffd.OK, page)
	call = s.StartWrite(1, []byte{97})
	s.fault(t, 0)
	want(t, s.fd.WriteProtect(s.at(0, 1), uffd.UFFDIO_WRITEPROTECT_MODE_DONTWAKE), uffd.OK, page)
	s.wantInfo(t, 0, 1)
	check(t, s.fd.Wake(s.at(0, 1)))
	_, err = call.Wait()
	check(t, err)
}

func TestPoison(t *testing.T) {
	requireFeature(t, uffd.UFFD_FEATURE_POISON)
	s := startPages(t, 3)
	call := s.StartRead(0, 1)
	s.fault(t, 0)
	want(t, s.fd.Poison(s.at(0, 2), 0), uffd.OK, 2*page)
	var bus *faulter.BusError
	if _, err := call.Wait(); !errors.As(err, &bus) || bus.Address/page != s.at(0, 1).Start/page {
		t.Fatalf("access to a poisoned page: %v; want a bus error", err)
	}
	content := block(1, 1)
	want(t, s.fd.Copy(s.at(1, 1).Start, content, 0), uffd.OK, page)
	got, err := s.Process.Read(page, 1)
	check(t, err)
	if got[0] != content[0] {
		t.Errorf("page installed over poison reads %d; want %d", got[0], content[0])
	}
	want(t, s.fd.Poison(s.at(1, 1), 0), uffd.Exists, 0)
}

// TestBadSource copies from a mapping whose file was truncated: the kernel says
// EFAULT where an access would be SIGBUS.
func TestBadSource(t *testing.T) {
	s := startPages(t, 2)
	file, err := os.CreateTemp(t.TempDir(), "")
	check(t, err)
	defer file.Close()
	check(t, file.Truncate(2*page))
	source, err := unix.Mmap(int(file.Fd()), 0, 2*page, unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	defer unix.Munmap(source)
	check(t, file.Truncate(page))
	want(t, s.fd.Copy(s.at(0, 1).Start, source, 0), uffd.Partial, page)
	want(t, s.fd.Copy(s.at(1, 1).Start, source[page:], 0), uffd.BadSource, 0)
}
