package capture

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// TestPauseWaitsForNoDisk follows the system calls of a capture: while the guest
// stands still nobody but the VMM waits for a disk, and when the capture gets its
// name, all that is in it is on disk.
func TestPauseWaitsForNoDisk(t *testing.T) {
	area, _ := newArea(t, roomy)
	for name, stages := range map[string]*stage.Area{"staged": area, "to disk": nil} {
		t.Run(name, func(t *testing.T) {
			v, l, _, _ := source(t)
			v.set(3, 3)
			r := v.request(l)
			r.Disks, r.ID, r.Stages, r.MemoryBytes = twoDisks(), "next", stages, fakeMemory
			w := v.now(t, r.Disks)
			draft := filepath.Join(v.captures(), newMark+"next")
			unsynced, published := map[string]bool{}, false
			// What decides is another goroutine.
			var waits atomic.Bool
			v.fail = func(request string) error {
				if request == "pause" || request == "resume" {
					waits.Store(request == "pause")
				}
				return nil
			}
			decide := func(c syscallfault.Call) syscallfault.Errno {
				switch c.Name {
				case "write", "pwrite64", "copy_file_range", "ftruncate", "ioctl", "fallocate":
					unsynced[c.Path] = true
				case "fsync":
					delete(unsynced, c.Path)
					// The fake writes its memory file as Firecracker does, with an fsync.
					if waits.Load() && filepath.Base(c.Path) != rawName {
						t.Errorf("while the guest waits: fsync of %s", c.Path)
					}
				case "renameat":
					if c.Path != draft {
						break
					}
					published = true
					for path := range maps.Keys(unsynced) {
						if strings.HasPrefix(path, draft+"/") {
							t.Errorf("published without an fsync of %s", path)
						}
					}
				}
				return 0
			}
			var err error
			switch serr := syscallfault.Run(decide, func() { _, err = Take(t.Context(), r) }); {
			case errors.Is(serr, syscallfault.ErrUnsupported):
				t.Skip(serr)
			case serr != nil || err != nil:
				t.Fatal(serr, err)
			}
			if !published || len(unsynced) == 0 && stages != nil {
				t.Errorf("published %v, met %v", published, unsynced)
			}
			w.verify(t, filepath.Join(v.captures(), "next"))
		})
	}
}

// TestDiskThatCannotBeSynced: what the kernel could not write it reports once. Such a
// capture is never tried again, also where the error is one that passes.
func TestDiskThatCannotBeSynced(t *testing.T) {
	v, l, c, w := source(t)
	r := v.request(l)
	r.Disks, r.ID = twoDisks(), "next"
	failed := false
	decide := func(call syscallfault.Call) syscallfault.Errno {
		if call.Name == "fsync" && filepath.Base(call.Path) == "data" && !failed {
			failed = true
			return unix.ENOSPC
		}
		return 0
	}
	var err error
	switch serr := syscallfault.Run(decide, func() { _, err = Take(t.Context(), r) }); {
	case errors.Is(serr, syscallfault.ErrUnsupported):
		t.Skip(serr)
	case serr != nil:
		t.Fatal(serr)
	}
	if !failed || err == nil || errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "disk data") {
		t.Errorf("the disk was met: %v; error %v", failed, err)
	}
	if _, held := l.Held(); held || v.state != hypervisor.Running {
		t.Errorf("held %v, the guest is %s", held, v.state)
	}
	w.verify(t, c.Dir)
	w = v.now(t, r.Disks)
	w.verify(t, mustTake(t, r).Capture.Dir)
}
