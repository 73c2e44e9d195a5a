package capture

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage"
)

// failEach runs work again and again, each time with another one of its system
// calls that change files failing, and ends with a run in which none failed. Prepare
// makes the state before; verify gets the error of work.
func failEach(t *testing.T, errno unix.Errno, prepare func() (work func() error, verify func(failed string, err error))) {
	t.Helper()
	for n := 0; ; n++ {
		work, verify := prepare()
		failed := ""
		seq := &syscallfault.Sequence{N: n, Hit: func(c syscallfault.Call) syscallfault.Errno {
			failed = strings.TrimSpace(c.Name + " " + c.Path)
			return errno
		}}
		var err error
		switch serr := syscallfault.Run(seq.Decide, func() { err = work() }); {
		case errors.Is(serr, syscallfault.ErrUnsupported):
			t.Skip(serr)
		case serr != nil:
			t.Fatal(serr)
		}
		verify(failed, err)
		if t.Failed() {
			t.Fatalf("with call %d failed: %s: %v", n, failed, err)
		}
		if !seq.Reached() {
			if err != nil {
				t.Fatalf("nothing failed, and yet: %v", err)
			}
			if n < 10 {
				t.Fatalf("only %d calls were there to fail", n)
			}
			return
		}
	}
}

// errnos are one that may pass and one that does not.
func errnos() map[string]unix.Errno {
	return map[string]unix.Errno{"ENOSPC": unix.ENOSPC, "EIO": unix.EIO}
}

// TestEveryStepOfTakeFails: whatever fails, the guest runs, old captures are what
// they were, the capture is there as a whole or not at all, and the next one is
// right, whether over the base, over a capture that was held, or full.
func TestEveryStepOfTakeFails(t *testing.T) {
	for name, errno := range errnos() {
		for _, stop := range []bool{false, true} {
			t.Run(name+map[bool]string{true: "Stop"}[stop], func(t *testing.T) {
				held := 0
				failEach(t, errno, func() (func() error, func(string, error)) {
					v, l, c, w := source(t)
					v.set(2, 5)
					v.set(4, 4)
					v.setDisk(t, "data", "changed")
					r := v.request(l)
					r.Disks, r.Stop, r.ID = twoDisks(), stop, "next"
					newWant := v.now(t, r.Disks)
					work := func() error {
						_, err := Take(t.Context(), r)
						return err
					}
					return work, func(_ string, err error) {
						w.verify(t, c.Dir)
						dir := filepath.Join(v.captures(), "next")
						if err == nil {
							newWant.verify(t, dir)
							return
						}
						if v.state != hypervisor.Running || v.killed {
							t.Errorf("the guest is %s", v.state)
						}
						if _, serr := os.Stat(dir); !errors.Is(serr, os.ErrNotExist) {
							t.Errorf("the failed capture is there: %v", serr)
						}
						asked := len(v.snapshots) > 2
						kept := false
						if errors.Is(err, ErrHeld) {
							kept = settleHeld(t, v, l, newWant, held)
							held++
						} else if got := names(t, v.captures()); len(got) != 2 {
							t.Errorf("the directory holds %v", got)
						}
						v.set(6, 6)
						r.ID, r.Stop = "later", false
						takeLater(t, v, r, newWant, asked, kept)
						w.verify(t, c.Dir)
						if removed, err := Sweep(v.captures()); err != nil || len(removed) > 0 {
							t.Errorf("sweep found %v, %v", removed, err)
						}
					}
				})
				if (held > 0) != (errno == unix.ENOSPC) {
					t.Errorf("%d captures were held", held)
				}
			})
		}
	}
}

// settleHeld does one of three things about the capture "next" that is held: it tries
// again, leaves that to the next capture, or gives it up. It reports whether the
// capture comes to be.
func settleHeld(t *testing.T, v *fakeVMM, l *Lineage, w want, turn int) (kept bool) {
	t.Helper()
	if id, ok := l.Held(); !ok || id != "next" {
		t.Errorf("held: %q, %v", id, ok)
	}
	// The guest runs on meanwhile; the capture is of its moment.
	v.set(2, 200)
	switch turn % 3 {
	case 0:
		result, err := l.Retry(t.Context())
		if err != nil {
			t.Error(err)
			return false
		}
		w.verify(t, result.Capture.Dir)
		if base, ok := l.Base(); !ok || base.Record.ID != "next" {
			t.Errorf("the base is %q, %v", base.Record.ID, ok)
		}
		return true
	case 1:
		return true
	default:
		if err := l.GiveUp(); err != nil {
			t.Error(err)
		}
		if _, err := l.Retry(t.Context()); !errors.Is(err, ErrNoneHeld) {
			t.Errorf("after giving up: %v", err)
		}
		return false
	}
}

// takeLater takes the capture after one that failed. It is a diff over that one where it
// came to be after all; it is full where the VMM was asked for a snapshot and nothing
// came of it; and else it is a diff over the capture before.
func takeLater(t *testing.T, v *fakeVMM, r Request, next want, asked, kept bool) {
	t.Helper()
	laterWant := v.now(t, r.Disks)
	later := mustTake(t, r).Capture
	laterWant.verify(t, later.Dir)
	if kept {
		next.verify(t, filepath.Join(v.captures(), "next"))
	}
	full := asked && !kept
	if got := later.Record.Kind == memimage.Full; got != full || kept != (later.Record.Base == "next") {
		t.Errorf("the next capture is %s over %q; the VMM was asked before: %v, the capture was kept: %v", later.Record.Kind, later.Record.Base, asked, kept)
	}
}

func TestEveryStepOfForkFails(t *testing.T) {
	for name, errno := range errnos() {
		t.Run(name, func(t *testing.T) {
			_, _, c, w := source(t)
			failEach(t, errno, func() (func() error, func(string, error)) {
				parent := memoryDir(t)
				dir := filepath.Join(parent, "fork")
				work := func() error {
					_, err := Fork(t.Context(), c, ForkOptions{Dir: dir})
					return err
				}
				return work, func(_ string, err error) {
					w.verify(t, c.Dir)
					if err == nil {
						w.verify(t, filepath.Join(dir, CapturesDir, c.Record.ID))
						return
					}
					if got := names(t, parent); len(got) != 0 {
						t.Errorf("left: %v", got)
					}
				}
			})
		})
	}
}

// TestEveryStepOfRemoveFails: the capture is whole or gone.
func TestEveryStepOfRemoveFails(t *testing.T) {
	failEach(t, unix.EIO, func() (func() error, func(string, error)) {
		_, _, c, w := source(t)
		return func() error { return Remove(c.Dir) }, func(_ string, err error) {
			_, serr := os.Stat(c.Dir)
			switch {
			case serr == nil && err == nil:
				t.Error("it is still there")
			case serr == nil:
				w.verify(t, c.Dir)
			case !errors.Is(serr, os.ErrNotExist):
				t.Error(serr)
			}
			if _, err := Sweep(filepath.Dir(c.Dir)); err != nil {
				t.Error(err)
			}
			for _, name := range names(t, filepath.Dir(c.Dir)) {
				if strings.HasPrefix(name, ".") {
					t.Errorf("left: %s", name)
				}
			}
		}
	})
}
