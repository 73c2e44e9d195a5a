package memimage

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// durability follows the system calls of an operation and finds names that were
// given before what they name was on disk. Killing a process does not show that:
// only a power cut would.
type durability struct {
	t *testing.T
	// unsynced are the files that were written since their last fsync.
	unsynced map[string]bool
	// pending tells that names were made since the last fsync of a directory.
	pending bool
	syncs   int
}

func (d *durability) decide(c faultCall) unix.Errno {
	switch c.Name {
	case "write", "pwrite64", "copy_file_range", "fallocate", "ftruncate", "fchmod":
		d.unsynced[c.Path] = true
	case "fsync":
		d.syncs++
		delete(d.unsynced, c.Path)
		if info, err := os.Stat(c.Path); err == nil && info.IsDir() {
			d.pending = false
		}
	case "renameat", "renameat2":
		if c.Path == "" || d.unsynced[c.Path] {
			d.t.Errorf("renamed %q before an fsync of it", c.Path)
		}
		if d.pending {
			d.t.Error("renamed before an fsync of the directory with the names before")
		}
		d.pending = true
	case "linkat":
		d.pending = true
	}
	return 0
}

func TestEachStepIsDurableBeforeTheNext(t *testing.T) {
	for op := range crashOps("") {
		dir, _ := crashDir(t)
		assertDurable(t, op, func() error { return crashOps(dir)[op](context.Background()) })
	}
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		raw := filepath.Join(dir, "raw")
		writeMemory(t, raw, 8, crashContent())
		assertDurable(t, "seal", func() error {
			_, err := Seal(context.Background(), SealOptions{Source: raw, Dir: dir, Kind: Full, Keep: keep})
			return err
		})
	}
}

func assertDurable(t *testing.T, op string, work func() error) {
	t.Helper()
	d := &durability{t: t, unsynced: map[string]bool{}}
	check(t, supervised(t, d.decide, work))
	if d.pending || len(d.unsynced) > 0 || d.syncs == 0 {
		t.Errorf("%s ends with names pending %v, files unsynced %v, after %d fsyncs", op, d.pending, d.unsynced, d.syncs)
	}
	if t.Failed() {
		t.Fatal(op)
	}
}
