package capture

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/memimage"
)

// source returns a VMM that has been captured twice, and the newer capture with
// what it must hold.
func source(t *testing.T) (*fakeVMM, *Lineage, Capture, want) {
	t.Helper()
	v := newFake(t)
	v.setDisk(t, "root", "read only")
	v.setDisk(t, "data", "writable")
	l := Booted(true)
	r := v.request(l)
	r.Disks = twoDisks()
	v.set(1, 1)
	mustTake(t, r)
	v.set(2, 2)
	c := mustTake(t, r).Capture
	return v, l, c, v.now(t, r.Disks)
}

func TestForkOutlivesItsSource(t *testing.T) {
	v, l, c, w := source(t)
	instances := memoryDir(t)
	snapshot, err := Link(t.Context(), c, filepath.Join(instances, "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	var forks []Capture
	for _, name := range []string{"a", "b"} {
		f, err := Fork(t.Context(), snapshot.Capture, ForkOptions{Dir: filepath.Join(instances, name)})
		if err != nil {
			t.Fatal(err)
		}
		forks = append(forks, f.Capture)
		if f.Sharing.Rungs[memimage.HardLink] < 8 {
			t.Errorf("sharing %+v: both layers, their indexes, the VM state, the record and the disks are shared", f.Sharing)
		}
	}
	// The source parks again into new files, and goes; so does the snapshot.
	v.set(2, 77)
	r := v.request(l)
	r.Disks, r.Stop = twoDisks(), true
	mustTake(t, r)
	for _, dir := range []string{snapshot.Capture.Dir, v.dir} {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range forks {
		w.verify(t, f.Dir)
		instance := filepath.Join(instances, string(rune('a'+i)))
		if got := readFile(t, filepath.Join(instance, DisksDir, "data")); got != "writable" {
			t.Errorf("the fork's disk holds %q", got)
		}
		// A fork lives: writes to its disk and memory, and parks on top.
		fork := restoreFake(t, instance, f)
		fork.setDisk(t, "data", "of fork "+instance)
		fork.set(9, byte(i))
		r := fork.request(Restored(f, true))
		r.Disks, r.Stop = twoDisks(), true
		forkWant := fork.now(t, r.Disks)
		parked := mustTake(t, r)
		if parked.Capture.Record.Kind != memimage.Diff || parked.Pages.Data+parked.Pages.Zero != 1 {
			t.Errorf("the fork parked with %+v", parked)
		}
		forkWant.verify(t, parked.Capture.Dir)
		w.verify(t, f.Dir)
	}
	if got := names(t, instances); len(got) != 2 {
		t.Errorf("left beside the forks: %v", got)
	}
}

func TestForkPublishesWhatPreparePuts(t *testing.T) {
	_, _, c, w := source(t)
	parent := memoryDir(t)
	dir := filepath.Join(parent, "fork")
	prepare := func(made string) error {
		if made == dir {
			t.Error("Prepare was called after the publication")
		}
		return os.WriteFile(filepath.Join(made, "instance.json"), []byte("{}"), 0o600)
	}
	f, err := Fork(t.Context(), c, ForkOptions{Dir: dir, Prepare: prepare})
	if err != nil {
		t.Fatal(err)
	}
	w.verify(t, f.Capture.Dir)
	if readFile(t, filepath.Join(dir, "instance.json")) != "{}" {
		t.Error("the record is not there")
	}
	refused := errors.New("refused")
	if _, err := Fork(t.Context(), c, ForkOptions{Dir: filepath.Join(parent, "other"), Prepare: func(string) error { return refused }}); !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if _, err := Fork(t.Context(), c, ForkOptions{Dir: dir}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a fork where one is gave %v", err)
	}
	if got := names(t, parent); len(got) != 1 {
		t.Errorf("the parent holds %v", got)
	}
}

func TestForkOfARemovedCapture(t *testing.T) {
	_, _, c, _ := source(t)
	if err := Remove(c.Dir); err != nil {
		t.Fatal(err)
	}
	parent := memoryDir(t)
	if _, err := Fork(t.Context(), c, ForkOptions{Dir: filepath.Join(parent, "fork")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if got := names(t, parent); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestForkWithAContextThatEnded(t *testing.T) {
	_, _, c, _ := source(t)
	parent := memoryDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Fork(ctx, c, ForkOptions{Dir: filepath.Join(parent, "fork")}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := names(t, parent); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestPlaceDisksRollsBack(t *testing.T) {
	v, _, c, _ := source(t)
	v.setDisk(t, "data", "written after the capture")
	for range 2 {
		if _, err := PlaceDisks(t.Context(), c, v.dir); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, filepath.Join(v.dir, DisksDir, "data")); got != "writable" {
			t.Errorf("the disk holds %q", got)
		}
	}
	// The instance's disk is its own.
	v.setDisk(t, "data", "again")
	if got := readFile(t, filepath.Join(c.Dir, DisksDir, "data")); got != "writable" {
		t.Errorf("the capture's disk holds %q", got)
	}
}
