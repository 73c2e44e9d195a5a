package uffd_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// TestNoAllocations covers the calls of the fault path.
func TestNoAllocations(t *testing.T) {
	const runs = 100
	s := startPages(t, 2*(runs+1))
	wake, err := uffd.NewEvent()
	check(t, err)
	defer wake.Close()
	content := block(0, 1)
	msgs := make([]uffd.Message, 16)
	first, absent := s.at(0, 1), s.at(0, 1)
	for name, call := range map[string]func() uffd.Result{
		"Copy": func() uffd.Result {
			r := s.fd.Copy(absent.Start, content, 0)
			absent.Start += page
			return r
		},
		"ZeroPage": func() uffd.Result {
			r := s.fd.ZeroPage(absent, 0)
			absent.Start += page
			return r
		},
		"Wake": func() uffd.Result {
			_ = s.fd.Wake(first)
			return uffd.Result{}
		},
		"Read": func() uffd.Result {
			_, _ = s.fd.Read(msgs)
			return uffd.Result{}
		},
		"Wait": func() uffd.Result {
			_, _, _ = s.fd.Wait(wake, 0)
			return uffd.Result{}
		},
		"Signal": func() uffd.Result {
			_ = wake.Signal()
			return uffd.Result{}
		},
		"Drain": func() uffd.Result {
			_ = wake.Drain()
			return uffd.Result{}
		},
	} {
		var failed uffd.Result
		allocations := testing.AllocsPerRun(runs, func() {
			if r := call(); r.Status != uffd.OK {
				failed = r
			}
		})
		if err := failed.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if allocations != 0 {
			t.Errorf("%s: %v allocations per call; want none", name, allocations)
		}
	}
	present := func() { s.fd.Copy(first.Start, content, 0) }
	if allocations := testing.AllocsPerRun(runs, present); allocations != 0 {
		t.Errorf("Copy onto a present page: %v allocations per call; want none", allocations)
	}
}

func TestClosed(t *testing.T) {
	s := startPages(t, 1)
	check(t, s.fd.Close())
	r := s.all(0)
	for name, err := range map[string]error{
		"Close":        s.fd.Close(),
		"Copy":         s.fd.Copy(r.Start, make([]byte, page), 0).Err(),
		"ZeroPage":     s.fd.ZeroPage(r, 0).Err(),
		"WriteProtect": s.fd.WriteProtect(r, 0).Err(),
		"Poison":       s.fd.Poison(r, 0).Err(),
		"Wake":         s.fd.Wake(r),
		"Unregister":   s.fd.Unregister(r),
		"Register":     second(s.fd.Register(r, uffd.UFFDIO_REGISTER_MODE_MISSING)),
		"API":          second(s.fd.API(0)),
		"Read":         second(s.fd.Read(make([]uffd.Message, 1))),
		"Info":         second(s.fd.Info()),
		"Duplicate":    second(s.fd.Duplicate()),
		"Use":          s.fd.Use(func(int) error { return nil }),
	} {
		if !errors.Is(err, uffd.ErrClosed) {
			t.Errorf("%s after Close = %v; want %v", name, err, uffd.ErrClosed)
		}
	}
	if _, _, err := s.fd.Wait(nil, -1); !errors.Is(err, uffd.ErrClosed) {
		t.Errorf("Wait after Close = %v; want %v", err, uffd.ErrClosed)
	}
}

func second[T any](_ T, err error) error { return err }

// TestCloseDuringUse closes while a call holds the number: it must stay that of
// the userfaultfd until the call has left.
func TestCloseDuringUse(t *testing.T) {
	s := startPages(t, 1)
	var number int
	check(t, s.fd.Use(func(raw int) error {
		number = raw
		check(t, s.fd.Close())
		if link, err := os.Readlink(numberPath(raw)); err != nil || link != "anon_inode:[userfaultfd]" {
			t.Errorf("number in use is %q, %v after Close", link, err)
		}
		return nil
	}))
	if link, err := os.Readlink(numberPath(number)); err == nil && link == "anon_inode:[userfaultfd]" {
		t.Error("number is still open after its last user left")
	}
}

// TestConcurrentClose closes under many callers. Whatever they get, it is the
// answer of this userfaultfd or ErrClosed, and the race detector looks on.
func TestConcurrentClose(t *testing.T) {
	s := startPages(t, 1)
	wake, err := uffd.NewEvent()
	check(t, err)
	defer wake.Close()
	r, content := s.all(0), make([]byte, page)
	want(t, s.fd.Copy(r.Start, content, 0), uffd.OK, page)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				got := s.fd.Copy(r.Start, content, 0)
				if errors.Is(got.Err(), uffd.ErrClosed) {
					return
				}
				if got.Status != uffd.Exists {
					t.Errorf("copy: %v, %v; want %v or closed", got.Status, got.Errno, uffd.Exists)
					return
				}
			}
		})
		group.Go(func() {
			if _, _, err := s.fd.Wait(wake, -1); err != nil && !errors.Is(err, uffd.ErrClosed) {
				t.Errorf("wait: %v", err)
			}
		})
	}
	check(t, s.fd.Close())
	check(t, wake.Signal())
	group.Wait()
}

func TestEvent(t *testing.T) {
	s := startPages(t, 1)
	wake, err := uffd.NewEvent()
	check(t, err)
	waits := func() bool {
		t.Helper()
		readable, woken, err := s.fd.Wait(wake, 0)
		check(t, err)
		if readable {
			t.Error("readable without a fault")
		}
		return woken
	}
	if waits() {
		t.Error("woken before any signal")
	}
	check(t, wake.Signal())
	check(t, wake.Signal())
	if !waits() || !waits() {
		t.Error("not woken by a signal that came before")
	}
	check(t, wake.Drain())
	check(t, wake.Drain())
	if waits() {
		t.Error("woken after the signals were drained")
	}
	check(t, wake.Close())
	for name, err := range map[string]error{"Signal": wake.Signal(), "Drain": wake.Drain(), "Close": wake.Close()} {
		if !errors.Is(err, uffd.ErrClosed) {
			t.Errorf("%s after Close = %v; want %v", name, err, uffd.ErrClosed)
		}
	}
	if _, _, err := s.fd.Wait(wake, 0); !errors.Is(err, uffd.ErrClosed) {
		t.Errorf("Wait with a closed event = %v; want %v", err, uffd.ErrClosed)
	}
}

// TestWaitBlocking: whoever shares the open file can make it blocking.
func TestWaitBlocking(t *testing.T) {
	s := startPages(t, 1)
	check(t, s.fd.Use(func(raw int) error { return unix.SetNonblock(raw, false) }))
	if _, _, err := s.fd.Wait(nil, -1); !errors.Is(err, uffd.ErrNotPollable) {
		t.Errorf("Wait = %v; want %v", err, uffd.ErrNotPollable)
	}
	// Taking it over makes it right again.
	again := takeFD(t, s.Process)
	if readable, _, err := again.Wait(nil, 0); readable || err != nil {
		t.Errorf("Wait = %v, %v after the descriptor was taken over", readable, err)
	}
}

func TestNewFD(t *testing.T) {
	raw, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	if _, err := uffd.NewFD(raw); !errors.Is(err, uffd.ErrNotUserfaultfd) {
		t.Errorf("NewFD of /dev/null = %v; want %v", err, uffd.ErrNotUserfaultfd)
	}
	if link, err := os.Readlink(numberPath(raw)); err == nil && link == os.DevNull {
		t.Error("refused descriptor was left open")
	}
	if _, err := uffd.NewFD(-1); err == nil {
		t.Error("NewFD(-1) succeeded")
	}
}
