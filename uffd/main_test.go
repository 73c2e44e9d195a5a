package uffd_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

const page = 4096

// TestMain also checks that no test leaves a userfaultfd open.
func TestMain(m *testing.M) {
	faulter.Main()
	code := m.Run()
	left, err := uffd.Find(os.Getpid())
	if code == 0 && (err != nil || len(left) > 0) {
		fmt.Fprintf(os.Stderr, "userfaultfds left open by the tests: %v %v\n", left, err)
		code = 99
	}
	os.Exit(code)
}

// subject is a child and a descriptor of its userfaultfd.
type subject struct {
	*faulter.Process
	fd *uffd.FD
}

// start runs a child for the duration of the test.
func start(t *testing.T, config faulter.Config) subject {
	t.Helper()
	p, err := faulter.Start(config)
	if errors.Is(err, faulter.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, p.Close()) })
	return subject{p, takeFD(t, p)}
}

// startPages runs a child with one region of so many pages.
func startPages(t *testing.T, pages uint64) subject {
	t.Helper()
	return start(t, faulter.Config{Regions: []faulter.Region{{Size: pages * page}}})
}

func takeFD(t *testing.T, p *faulter.Process) *uffd.FD {
	t.Helper()
	fd, err := p.TakeFD()
	check(t, err)
	closeLater(t, fd)
	return fd
}

func closeLater(t *testing.T, fd *uffd.FD) {
	t.Cleanup(func() {
		if err := fd.Close(); err != nil && !errors.Is(err, uffd.ErrClosed) {
			t.Error(err)
		}
	})
}

// all returns the range of region i, at returns so many pages from a page on.
func (s subject) all(i int) uffd.Range {
	r := s.Regions()[i]
	return uffd.Range{Start: r.Address, Len: r.Size}
}

func (s subject) at(first, pages uint64) uffd.Range {
	return uffd.Range{Start: s.Regions()[0].Address + first*page, Len: pages * page}
}

// next waits for a message and reads it alone.
func (s subject) next(t *testing.T) uffd.Message {
	t.Helper()
	readable, _, err := s.fd.Wait(nil, -1)
	check(t, err)
	var msgs [1]uffd.Message
	n, err := s.fd.Read(msgs[:])
	check(t, err)
	if !readable || n != 1 {
		t.Fatalf("readable %v, but %d messages", readable, n)
	}
	return msgs[0]
}

// fault waits for the message of a page fault and checks its page.
func (s subject) fault(t *testing.T, wantPage uint64) uffd.PagefaultFlags {
	t.Helper()
	m := s.next(t)
	if m.Event() != uffd.UFFD_EVENT_PAGEFAULT {
		t.Fatalf("message %s; want a page fault", &m)
	}
	address, flags := m.Pagefault()
	if want := s.at(wantPage, 1).Start; address != want {
		t.Fatalf("page fault at %#x; want %#x", address, want)
	}
	return flags
}

// wantInfo compares the kernel's count of waiting threads.
func (s subject) wantInfo(t *testing.T, pending, total uint64) {
	t.Helper()
	info, err := s.fd.Info()
	check(t, err)
	if info.Pending != pending || info.Total != total {
		t.Fatalf("%d of %d waiting threads are unread; want %d of %d", info.Pending, info.Total, pending, total)
	}
}

// untilTotal waits until so many threads wait in faults. There is no event for
// it; the test's deadline bounds the wait.
func (s subject) untilTotal(t *testing.T, total uint64) {
	t.Helper()
	for {
		info, err := s.fd.Info()
		check(t, err)
		if info.Total == total {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want compares what an ioctl did.
func want(t *testing.T, got uffd.Result, status uffd.Status, done int64) {
	t.Helper()
	if got.Status != status || got.Done != done {
		t.Fatalf("result %v after %d bytes (%v); want %v after %d", got.Status, got.Done, got.Errno, status, done)
	}
}

// block returns pages of content that differs from page to page.
func block(first, pages int) []byte {
	content := make([]byte, pages*page)
	for i := range content {
		content[i] = byte(first + i/page + i%7)
	}
	return content
}

// requireFeature skips the test where the kernel is too old for the features, and
// fails it where it is not: a skip must not hide a broken probe.
func requireFeature(t *testing.T, features uffd.Features) {
	t.Helper()
	err := uffd.Supports(features)
	var unsupported *uffd.UnsupportedError
	switch {
	case err == nil:
	case !errors.As(err, &unsupported):
		var refused *uffd.OpenError
		if errors.As(err, &refused) {
			t.Skip(err)
		}
		t.Fatal(err)
	case runtime.GOARCH == "amd64" && kernelAtLeast(t, unsupported.MinimumVersion):
		t.Fatalf("%v, but this kernel is new enough", err)
	default:
		t.Skip(err)
	}
}

func kernelAtLeast(t *testing.T, version string) bool {
	t.Helper()
	var name unix.Utsname
	check(t, unix.Uname(&name))
	var have, need [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(version, "%d.%d", &need[0], &need[1]); err != nil {
		t.Fatal(err)
	}
	return have[0] > need[0] || have[0] == need[0] && have[1] >= need[1]
}
