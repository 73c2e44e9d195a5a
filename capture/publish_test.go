package capture

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSweep(t *testing.T) {
	parent := memoryDir(t)
	keep := []string{"capture", "new-one", "trash", ".hidden"}
	drop := []string{newMark + "a", trashMark + "b-123", ".capture.json.tmp-77"}
	for _, name := range append(slices.Clone(keep), drop...) {
		if err := os.MkdirAll(filepath.Join(parent, name, "layers"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(parent, name, "layers", "x"), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := Sweep(parent)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(removed)
	slices.Sort(drop)
	slices.Sort(keep)
	if !slices.Equal(removed, drop) {
		t.Errorf("removed %v, want %v", removed, drop)
	}
	if got := names(t, parent); !slices.Equal(got, keep) {
		t.Errorf("kept %v, want %v", got, keep)
	}
	if removed, err := Sweep(filepath.Join(parent, "none")); err != nil || len(removed) != 0 {
		t.Errorf("a parent that does not exist gave %v, %v", removed, err)
	}
}

func TestRemoveOfNothing(t *testing.T) {
	parent := memoryDir(t)
	if err := Remove(filepath.Join(parent, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if got := names(t, parent); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestOpenWhatIsNoCapture(t *testing.T) {
	v := newFake(t)
	r := v.request(Booted(true))
	v.setDisk(t, "data", "x")
	r.Disks = []Disk{{Name: "data"}}
	c := mustTake(t, r).Capture
	if _, err := Open(filepath.Join(v.dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory gave %v", err)
	}
	if _, err := Open(v.dir); !errors.Is(err, ErrNoCapture) {
		t.Errorf("a directory without a record gave %v", err)
	}
	for _, name := range []string{StateName, "memory.json", "disks/data"} {
		kept := filepath.Join(v.dir, "kept")
		if err := os.Rename(filepath.Join(c.Dir, name), kept); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without %s: %v", name, err)
		}
		list, err := List(v.captures())
		if len(list) != 0 || err == nil {
			t.Errorf("without %s the list is %v, %v", name, list, err)
		}
		if err := os.Rename(kept, filepath.Join(c.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(c.Dir); err != nil {
		t.Error(err)
	}
}
