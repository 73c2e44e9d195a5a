package uffd_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

func numberPath(raw int) string { return fmt.Sprintf("/proc/self/fd/%d", raw) }

func openBest(t *testing.T) *uffd.FD {
	t.Helper()
	fd, _, err := uffd.OpenBest()
	var refused *uffd.OpenError
	if errors.As(err, &refused) {
		t.Skip(err)
	}
	check(t, err)
	closeLater(t, fd)
	return fd
}

func TestOpenFlags(t *testing.T) {
	fd := openBest(t)
	check(t, fd.Use(func(raw int) error {
		file, err := unix.FcntlInt(uintptr(raw), unix.F_GETFL, 0)
		check(t, err)
		descriptor, err := unix.FcntlInt(uintptr(raw), unix.F_GETFD, 0)
		check(t, err)
		if file&unix.O_NONBLOCK == 0 || descriptor&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %#x; want O_NONBLOCK and FD_CLOEXEC", file, descriptor)
		}
		return nil
	}))
}

func TestAPI(t *testing.T) {
	fd := openBest(t)
	if _, _, err := fd.Wait(nil, -1); !errors.Is(err, uffd.ErrNotPollable) {
		t.Errorf("Wait before the handshake = %v; want %v", err, uffd.ErrNotPollable)
	}
	var unsupported *uffd.UnsupportedError
	if _, err := fd.API(1 << 62); !errors.As(err, &unsupported) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("handshake for a feature that there is not = %v; want an UnsupportedError", err)
	}
	api, err := fd.API(uffd.UFFD_FEATURE_EVENT_REMOVE)
	check(t, err)
	if api.Features&uffd.UFFD_FEATURE_EVENT_REMOVE == 0 || !api.Ioctls.Has(uffd.UFFDIO_REGISTER) {
		t.Errorf("handshake = %+v; want EVENT_REMOVE and REGISTER among them", api)
	}
	if _, err := fd.API(0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("second handshake = %v; want EINVAL", err)
	}
}

func TestRegisterIoctls(t *testing.T) {
	s := startPages(t, 1)
	ioctls, err := s.fd.Register(s.all(0), uffd.UFFDIO_REGISTER_MODE_MISSING)
	check(t, err)
	for _, command := range []uintptr{uffd.UFFDIO_COPY, uffd.UFFDIO_ZEROPAGE, uffd.UFFDIO_WAKE} {
		if !ioctls.Has(command) {
			t.Errorf("ioctls %#x lack %#x", uint64(ioctls), command)
		}
	}
	if _, err := s.fd.Register(uffd.Range{Start: s.all(0).Start, Len: 1}, uffd.UFFDIO_REGISTER_MODE_MISSING); !errors.Is(err, unix.EINVAL) {
		t.Errorf("registration of one byte = %v; want EINVAL", err)
	}
}

func TestSupports(t *testing.T) {
	openBest(t)
	if err := uffd.Supports(uffd.UFFD_FEATURE_EVENT_REMOVE | uffd.UFFD_FEATURE_MISSING_SHMEM); err != nil {
		t.Error(err)
	}
	if err := uffd.Supports(1 << 62); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("support for a feature that there is not = %v", err)
	}
}

// TestOpenAsNobody gives up all rights. Where the host lets everybody, there is
// no refusal to look at.
func TestOpenAsNobody(t *testing.T) {
	var fd, best *uffd.FD
	var err, bestErr error
	var userModeOnly bool
	asNobody(t, func() {
		fd, err = uffd.Open(uffd.Options{})
		best, userModeOnly, bestErr = uffd.OpenBest()
	})
	if fd != nil {
		check(t, fd.Close())
		t.Skip("this host lets everybody make a userfaultfd; set vm.unprivileged_userfaultfd=0")
	}
	var refused *uffd.OpenError
	if !errors.As(err, &refused) {
		t.Fatalf("Open = %v; want an OpenError", err)
	}
	for _, p := range []uffd.Permission{uffd.CapSysPtrace, uffd.UnprivilegedSysctl} {
		if !slices.Contains(refused.Missing, p) || !strings.Contains(err.Error(), string(p)) {
			t.Errorf("error %q lacks %s", err, p)
		}
	}
	if _, missing := os.Stat("/dev/userfaultfd"); missing == nil && !slices.Contains(refused.Missing, uffd.DeviceFile) {
		t.Errorf("error %q lacks %s", err, uffd.DeviceFile)
	}
	if bestErr != nil || !userModeOnly {
		t.Fatalf("OpenBest = user mode only %v, %v; want true", userModeOnly, bestErr)
	}
	check(t, best.Close())
}
