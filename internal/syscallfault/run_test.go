package syscallfault

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEveryCallFailsOnce(t *testing.T) {
	failed := map[string]bool{}
	for n := 0; ; n++ {
		dir := t.TempDir()
		seq := &Sequence{N: n, Hit: func(c Call) Errno { failed[c.Name] = true; return unix.EDQUOT }}
		var err error
		work := func() {
			from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			if err = os.WriteFile(from, []byte("x"), 0o600); err != nil {
				return
			}
			err = os.Rename(from, to)
		}
		if serr := Run(seq.Decide, work); errors.Is(serr, ErrUnsupported) {
			t.Skip(serr)
		} else if serr != nil {
			t.Fatal(serr)
		}
		if !seq.Reached() {
			if err != nil {
				t.Errorf("no call failed, and yet: %v", err)
			}
			break
		}
		if !errors.Is(err, unix.EDQUOT) {
			t.Errorf("call %d failed, and the error is %v", n, err)
		}
	}
	for _, name := range []string{"openat", "write", "renameat"} {
		if !failed[name] {
			t.Errorf("%s never failed; met %v", name, failed)
		}
	}
	// The thread of this test is unaffected.
	if err := os.WriteFile(filepath.Join(t.TempDir(), "c"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}

// TestRuntimeWakesItsPoller: a supervised thread may have to wake the runtime's
// poller while the world is being stopped, and nobody could answer a question about
// that. Here nobody answers at all.
func TestRuntimeWakesItsPoller(t *testing.T) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(wake)
	exempt, err := runtimeFiles()
	if err != nil {
		t.Fatal(err)
	}
	if len(exempt) < 2 {
		t.Errorf("descriptors %v, want this test's and the runtime's", exempt)
	}
	listener, written := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		fd, err := install(exempt)
		listener <- fd
		if err == nil {
			_, err = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		}
		written <- err
	}()
	fd := <-listener
	select {
	case err = <-written:
	case <-time.After(10 * time.Second):
		t.Error("the thread is asked about waking the poller")
	}
	if fd >= 0 {
		// Without it the kernel answers by itself.
		unix.Close(fd)
	}
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Error(err)
	}
}
