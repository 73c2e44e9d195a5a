package uffd_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/faultline-vm/faultline/uffd"
)

// TestRegistered looks at a process before and after its memory was let go.
func TestRegistered(t *testing.T) {
	s := startPages(t, 2)
	is := func(when string, want bool) {
		t.Helper()
		if got, err := uffd.Registered(s.Pid()); err != nil || got != want {
			t.Errorf("%s: registered is %v, %v; want %v", when, got, err, want)
		}
	}
	is("registered", true)
	check(t, s.fd.Unregister(s.all(0)))
	is("unregistered", false)
}

func TestRegisteredWithoutProcess(t *testing.T) {
	if got, err := uffd.Registered(os.Getpid()); err != nil || got {
		t.Errorf("of this process: %v, %v", got, err)
	}
	gone := exec.Command("true")
	check(t, gone.Run())
	if _, err := uffd.Registered(gone.Process.Pid); !errors.Is(err, uffd.ErrGone) {
		t.Errorf("of a process that has ended: %v; want %v", err, uffd.ErrGone)
	}
}
