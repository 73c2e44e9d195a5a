package capture

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// stageDir makes a directory for an area in memory.
func stageDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fl")
	if err != nil {
		t.Skipf("%v; mount a tmpfs at /dev/shm", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newArea opens an area in memory.
func newArea(t *testing.T, budget uint64) (*stage.Area, string) {
	t.Helper()
	dir := stageDir(t)
	area, _, err := stage.Open(stage.Config{Dir: dir, Budget: budget})
	if err != nil {
		t.Skipf("%v; mount a tmpfs without huge pages at /dev/shm", err)
	}
	t.Cleanup(func() {
		if err := area.Close(); err != nil {
			t.Error(err)
		}
	})
	return area, dir
}

const roomy = 64 << 20

// requireEmpty checks that nothing is staged any more.
func requireEmpty(t *testing.T, area *stage.Area, dir string) {
	t.Helper()
	if u := area.Usage(); u.Stages != 0 || u.Reserved != 0 {
		t.Errorf("usage %+v", u)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("staged: %v", got)
	}
}

func TestStagedCaptures(t *testing.T) {
	area, dir := newArea(t, roomy)
	v := newFake(t)
	l := Booted(true)
	r := v.request(l)
	r.Stages, r.MemoryBytes = area, fakeMemory
	for i := range 3 {
		v.set(i, byte(i+1))
		v.set(9, 0)
		w := v.now(t, nil)
		got := mustTake(t, r)
		if !got.Staged || got.Unstaged != nil {
			t.Errorf("capture %d was not staged: %v", i, got.Unstaged)
		}
		if spec := v.snapshots[i]; !strings.HasPrefix(spec.MemoryPath, dir) || !strings.HasPrefix(spec.StatePath, dir) {
			t.Errorf("capture %d was written to %+v", i, spec)
		}
		w.verify(t, got.Capture.Dir)
		requireEmpty(t, area, dir)
	}
	// Of a guest that is going to end, memory is never the only place.
	r.Stop = true
	v.set(4, 4)
	w := v.now(t, nil)
	got := mustTake(t, r)
	if got.Staged || got.Capture.Record.Kind != memimage.Diff {
		t.Errorf("%+v", got)
	}
	w.verify(t, got.Capture.Dir)
}

func TestStagingWithoutRoom(t *testing.T) {
	area, dir := newArea(t, 4096)
	v := newFake(t)
	r := v.request(Booted(true))
	r.Stages, r.MemoryBytes = area, fakeMemory
	w := v.now(t, nil)
	got := mustTake(t, r)
	var full *stage.NoRoomError
	if got.Staged || !errors.As(got.Unstaged, &full) {
		t.Errorf("staged %v, because %v", got.Staged, got.Unstaged)
	}
	w.verify(t, got.Capture.Dir)
	requireEmpty(t, area, dir)
}

// A diff of a guest larger than the budget is staged in the room that the last one
// suggests.
func TestStagingOfASmallDiff(t *testing.T) {
	area, _ := newArea(t, fakeMemory+stateRoom-1)
	v := newFake(t)
	l := Booted(true)
	r := v.request(l)
	r.Stages, r.MemoryBytes = area, fakeMemory
	for i, staged := range []bool{false, false, true} {
		v.set(i, 1)
		w := v.now(t, nil)
		got := mustTake(t, r)
		if got.Staged != staged {
			t.Errorf("capture %d staged: %v, because %v", i, got.Staged, got.Unstaged)
		}
		w.verify(t, got.Capture.Dir)
	}
}

// A stage that overflows costs the pause some time, and neither the capture nor the
// base.
func TestStageThatOverflows(t *testing.T) {
	area, dir := newArea(t, roomy)
	v := newFake(t)
	l := Booted(true)
	r := v.request(l)
	r.Stages, r.MemoryBytes = area, fakeMemory
	mustTake(t, r)
	refusals := 0
	v.fail = func(request string) error {
		if request == "snapshot" && refusals == 0 {
			refusals++
			return &firecracker.APIError{Status: 400, FaultMessage: "No space left on device"}
		}
		return nil
	}
	v.set(1, 1)
	w := v.now(t, nil)
	got := mustTake(t, r)
	if got.Staged || got.Unstaged == nil || got.Capture.Record.Kind != memimage.Diff || refusals != 1 {
		t.Errorf("%+v", got)
	}
	if spec := v.snapshots[len(v.snapshots)-1]; filepath.IsAbs(spec.MemoryPath) {
		t.Errorf("the second attempt went to %s", spec.MemoryPath)
	}
	w.verify(t, got.Capture.Dir)
	requireEmpty(t, area, dir)

	// An error that is not the VMM's own answer leaves doubt, and is not tried again.
	refusals = 0
	v.fail = func(request string) error {
		if request == "snapshot" {
			refusals++
			return syscall.ECONNRESET
		}
		return nil
	}
	if _, err := Take(t.Context(), r); !errors.Is(err, syscall.ECONNRESET) || refusals != 1 {
		t.Errorf("error %v after %d requests", err, refusals)
	}
	v.fail = nil
	requireEmpty(t, area, dir)
	if got := mustTake(t, r); got.Capture.Record.Kind != memimage.Full {
		t.Errorf("the next capture is %s", got.Capture.Record.Kind)
	}
}

// TestEveryStepOfAStagedTakeFails: as without a stage, and what was staged is
// published by a later attempt or gone.
func TestEveryStepOfAStagedTakeFails(t *testing.T) {
	for name, errno := range errnos() {
		t.Run(name, func(t *testing.T) {
			area, dir := newArea(t, roomy)
			held := 0
			failEach(t, errno, func() (func() error, func(string, error)) {
				v, l, c, w := source(t)
				v.set(2, 5)
				v.setDisk(t, "data", "changed")
				r := v.request(l)
				r.Disks, r.ID, r.Stages, r.MemoryBytes = twoDisks(), "next", area, fakeMemory
				newWant := v.now(t, r.Disks)
				work := func() error {
					_, err := Take(t.Context(), r)
					return err
				}
				return work, func(_ string, err error) {
					w.verify(t, c.Dir)
					asked, kept := len(v.snapshots) > 2, err == nil
					switch {
					case err == nil:
						newWant.verify(t, filepath.Join(v.captures(), "next"))
					case errors.Is(err, ErrHeld):
						kept = settleHeld(t, v, l, newWant, held)
						held++
					}
					if _, ok := l.Held(); !ok {
						requireEmpty(t, area, dir)
					}
					v.set(6, 6)
					r.ID = "later"
					takeLater(t, v, r, newWant, asked, kept)
					requireEmpty(t, area, dir)
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
