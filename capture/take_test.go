package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

func twoDisks() []Disk { return []Disk{{Name: "root", ReadOnly: true}, {Name: "data"}} }

func TestTakeFullThenDiffs(t *testing.T) {
	v := newFake(t)
	v.setDisk(t, "root", "read only")
	v.setDisk(t, "data", "first")
	l := Booted(true)
	r := v.request(l)
	r.Disks = twoDisks()
	v.set(3, 1)
	first, firstWant := mustTake(t, r), v.now(t, r.Disks)
	if first.Capture.Record.Kind != memimage.Full || first.Why == "" || first.Capture.Record.Base != "" {
		t.Errorf("first capture: %+v", first)
	}
	if first.Pause <= 0 || first.Snapshot <= 0 || first.Snapshot > first.Pause || first.Capture.Record.PauseMS <= 0 {
		t.Errorf("pause %v, of it the snapshot %v, recorded %v ms", first.Pause, first.Snapshot, first.Capture.Record.PauseMS)
	}

	v.set(3, 2)
	v.set(7, 9)
	v.set(8, 0)
	v.setDisk(t, "data", "second")
	second, secondWant := mustTake(t, r), v.now(t, r.Disks)
	record := second.Capture.Record
	if record.Kind != memimage.Diff || record.Base != first.Capture.Record.ID || second.Why != "" || record.MemoryBytes != fakeMemory {
		t.Errorf("second capture: %+v", second)
	}
	if second.Pages.Data != 2 || second.Pages.Zero != 1 || second.Pages.Absent != fakePages-3 {
		t.Errorf("the second layer has %+v, want the three pages that were written", second.Pages)
	}
	// The base's layer and index and the read-only disk are shared, the other is not.
	if n := second.Sharing.Rungs[memimage.HardLink]; n < 3 {
		t.Errorf("sharing %+v, want at least three hard links", second.Sharing)
	}
	v.set(1, 1)
	third, thirdWant := mustTake(t, r), v.now(t, r.Disks)

	firstWant.verify(t, first.Capture.Dir)
	secondWant.verify(t, second.Capture.Dir)
	thirdWant.verify(t, third.Capture.Dir)
	list, err := List(v.captures())
	if err != nil || len(list) != 3 || list[0].Record.ID != first.Capture.Record.ID || list[2].Record.ID != third.Capture.Record.ID {
		t.Errorf("list %v, %v; want three captures in order", list, err)
	}
	for _, s := range v.snapshots {
		if filepath.IsAbs(s.StatePath) || filepath.IsAbs(s.MemoryPath) {
			t.Errorf("the VMM was given an absolute path: %+v", s)
		}
	}
	if v.state != hypervisor.Running || v.killed {
		t.Errorf("the VMM is %s", v.state)
	}

	// Any of them goes without the others noticing.
	for _, gone := range []Capture{first.Capture, second.Capture} {
		if err := Remove(gone.Dir); err != nil {
			t.Fatal(err)
		}
		thirdWant.verify(t, third.Capture.Dir)
	}
	if got := names(t, v.captures()); len(got) != 1 {
		t.Errorf("left beside the third capture: %v", got)
	}
}

func TestTakeWithoutTrackingIsFull(t *testing.T) {
	v := newFake(t)
	l := Booted(false)
	for range 2 {
		if got := mustTake(t, v.request(l)); got.Capture.Record.Kind != memimage.Full || !strings.Contains(got.Why, "track") {
			t.Errorf("%+v", got)
		}
	}
}

func TestTakeStops(t *testing.T) {
	v := newFake(t)
	r := v.request(Booted(true))
	r.Stop = true
	v.set(5, 5)
	w := v.now(t, nil)
	got := mustTake(t, r)
	if !v.killed {
		t.Error("the VMM was not ended")
	}
	w.verify(t, got.Capture.Dir)
}

func TestTakeLeavesAPausedGuestPaused(t *testing.T) {
	v := newFake(t)
	v.state = hypervisor.Paused
	if got := mustTake(t, v.request(Booted(true))); v.state != hypervisor.Paused || got.Pause != 0 {
		t.Errorf("the guest is %s after a pause of %v", v.state, got.Pause)
	}
}

func TestTakeRefusesANameThatIsTaken(t *testing.T) {
	v := newFake(t)
	r := v.request(Booted(true))
	r.ID = "golden"
	w := v.now(t, nil)
	first := mustTake(t, r)
	v.set(1, 1)
	if _, err := Take(t.Context(), r); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	w.verify(t, first.Capture.Dir)
	if len(v.snapshots) != 1 {
		t.Error("the guest was paused for a capture that could not be")
	}
	for _, bad := range []string{".hidden", "a/b", "..", strings.Repeat("x", 65)} {
		r.ID = bad
		if _, err := Take(t.Context(), r); err == nil {
			t.Errorf("id %q was taken", bad)
		}
	}
}

func TestTakeWithoutItsBaseIsFull(t *testing.T) {
	v := newFake(t)
	l := Booted(true)
	first := mustTake(t, v.request(l))
	if err := Remove(first.Capture.Dir); err != nil {
		t.Fatal(err)
	}
	v.set(2, 2)
	got := mustTake(t, v.request(l))
	if got.Capture.Record.Kind != memimage.Full || !strings.Contains(got.Why, first.Capture.Record.ID) {
		t.Errorf("%+v, want a full capture because its base is gone", got)
	}
	v.now(t, nil).verify(t, got.Capture.Dir)
}

func TestBusyLineage(t *testing.T) {
	v := newFake(t)
	l := Booted(true)
	var inner []error
	v.after = func() {
		_, take := Take(t.Context(), v.request(l))
		_, retry := l.Retry(t.Context())
		inner = append(inner, take, retry, l.GiveUp())
	}
	mustTake(t, v.request(l))
	for _, err := range inner {
		if !errors.Is(err, ErrBusy) {
			t.Errorf("error %v, want ErrBusy", err)
		}
	}
}

// A failed request to the VMM leaves the guest running, the old captures usable and
// the directory clean, and once a snapshot was asked for, the next one is full.
func TestTakeWhenTheVMMFails(t *testing.T) {
	for _, test := range []struct {
		request string
		stop    bool
		next    memimage.Kind
	}{
		{"state", false, memimage.Diff}, {"pause", false, memimage.Diff}, {"snapshot", false, memimage.Full},
		{"resume", false, memimage.Full}, {"snapshot", true, memimage.Full}, {"pause", true, memimage.Diff},
	} {
		v := newFake(t)
		l := Booted(true)
		v.set(1, 1)
		firstWant := v.now(t, nil)
		first := mustTake(t, v.request(l))
		v.set(2, 2)
		broken := errors.New("broken " + test.request)
		failed := false
		v.fail = func(request string) error {
			if request == test.request && !failed {
				failed = true
				return broken
			}
			return nil
		}
		r := v.request(l)
		r.Stop = test.stop
		if _, err := Take(t.Context(), r); !errors.Is(err, broken) {
			t.Errorf("%s: error %v", test.request, err)
		}
		if v.state != hypervisor.Running || v.killed {
			t.Errorf("%s: the guest is %s", test.request, v.state)
		}
		firstWant.verify(t, first.Capture.Dir)
		if got := names(t, v.captures()); len(got) != 1 {
			t.Errorf("%s: the directory holds %v", test.request, got)
		}
		next := mustTake(t, v.request(l))
		if next.Capture.Record.Kind != test.next {
			t.Errorf("after %s failed the next capture is %s, want %s", test.request, next.Capture.Record.Kind, test.next)
		}
		v.now(t, nil).verify(t, next.Capture.Dir)
	}
}

func TestTakeWhoseVMMDoesNotEnd(t *testing.T) {
	v := newFake(t)
	v.fail = func(request string) error {
		if request == "kill" {
			return errors.New("it lives")
		}
		return nil
	}
	r := v.request(Booted(true))
	r.Stop = true
	got, err := Take(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "published") {
		t.Errorf("error %v", err)
	}
	v.now(t, nil).verify(t, got.Capture.Dir)
}

// Somebody who takes a further name of any file of a capture is as safe as its owner.
func TestForeignHardLinks(t *testing.T) {
	v := newFake(t)
	v.setDisk(t, "data", "one")
	l := Booted(true)
	r := v.request(l)
	r.Disks = []Disk{{Name: "data"}}
	v.set(1, 1)
	first := mustTake(t, r)
	foreign := map[string]string{}
	err := filepath.WalkDir(first.Capture.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := filepath.Join(v.dir, fmt.Sprintf("foreign-%d", len(foreign)))
		foreign[name] = readFile(t, path)
		return os.Link(path, name)
	})
	if err != nil {
		t.Fatal(err)
	}
	v.set(1, 2)
	v.setDisk(t, "data", "two")
	mustTake(t, r)
	v.set(1, 3)
	r.Stop = true
	mustTake(t, r)
	for name, content := range foreign {
		if readFile(t, name) != content {
			t.Errorf("the content of %s has changed", name)
		}
	}
}

// A memory file that gets a second name while the VMM writes it is not sealed: its
// other owner could write to it.
func TestMemoryFileThatGetsAForeignName(t *testing.T) {
	v := newFake(t)
	l := Booted(true)
	var name string
	v.after = func() {
		spec := v.snapshots[len(v.snapshots)-1]
		name = filepath.Join(v.dir, "foreign")
		if err := os.Link(filepath.Join(v.dir, spec.MemoryPath), name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Take(t.Context(), v.request(l)); !errors.Is(err, memimage.ErrShared) {
		t.Errorf("error %v, want ErrShared", err)
	}
	v.after = nil
	if got := names(t, v.captures()); len(got) != 0 || v.state != hypervisor.Running {
		t.Errorf("left: %v, guest %s", got, v.state)
	}
	if info, err := os.Stat(name); err != nil || info.Size() != fakeMemory {
		t.Errorf("the foreign name: %v, %v", info, err)
	}
	if got := mustTake(t, v.request(l)); got.Capture.Record.Kind != memimage.Full {
		t.Errorf("the next capture is %s", got.Capture.Record.Kind)
	}
}

func TestPublishedFilesAreReadOnly(t *testing.T) {
	v := newFake(t)
	v.setDisk(t, "data", "x")
	r := v.request(Booted(true))
	r.Disks = []Disk{{Name: "data"}}
	c := mustTake(t, r).Capture
	writable := []string{}
	err := filepath.WalkDir(c.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o222 != 0 && entry.Name() != memimage.ManifestName {
			writable = append(writable, entry.Name())
		}
		if info.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("%s has %d names", path, info.Sys().(*syscall.Stat_t).Nlink)
		}
		return nil
	})
	if err != nil || len(writable) > 0 {
		t.Errorf("writable: %v, %v", writable, err)
	}
	if got := names(t, c.Dir); !slices.Contains(got, RecordName) || len(got) != 5 {
		t.Errorf("the capture holds %v", got)
	}
}
