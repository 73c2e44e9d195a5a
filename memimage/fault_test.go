package memimage

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/syscallfault"
)

// faultCall is a system call that a test may fail.
type faultCall = syscallfault.Call

// failEach runs work again and again: the first time its first system call that
// changes a file fails with errno, then its second, and so on, until none is left.
// It ends with a run in which nothing failed. Before each, prepare makes the state
// before; after each, verify gets the error of work and the call that failed.
func failEach(t *testing.T, errno unix.Errno, prepare func() (work func() error, verify func(call string, err error))) {
	t.Helper()
	for n := 0; ; n++ {
		work, verify := prepare()
		var failed string
		seq := &syscallfault.Sequence{N: n, Hit: func(c faultCall) unix.Errno {
			failed = strings.TrimSpace(c.Name + " " + c.Path)
			return errno
		}}
		err := supervised(t, seq.Decide, work)
		verify(failed, err)
		if t.Failed() {
			t.Fatalf("with call %d failed: %s: %v", n, failed, err)
		}
		if !seq.Reached() {
			if err != nil {
				t.Fatalf("nothing failed, and yet: %v", err)
			}
			if n < 3 {
				t.Fatalf("only %d calls were there to fail", n)
			}
			return
		}
	}
}

// supervised runs work with its system calls decided about.
func supervised(t *testing.T, decide func(faultCall) unix.Errno, work func() error) error {
	t.Helper()
	var err error
	switch serr := syscallfault.Run(decide, func() { err = work() }); {
	case errors.Is(serr, syscallfault.ErrUnsupported):
		t.Skip(serr)
	case serr != nil:
		t.Fatal(serr)
	}
	return err
}

// refuse fails every call of the given names with errno.
func refuse(errno unix.Errno, names ...string) func(faultCall) unix.Errno {
	return func(c faultCall) unix.Errno {
		for _, name := range names {
			if c.Name == name {
				return errno
			}
		}
		return 0
	}
}
