package capture

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// world is a host with instances, their captures and snapshots, and beside it what
// each capture has to hold.
type world struct {
	t     *testing.T
	root  string
	next  int
	vms   map[string]*vm
	wants map[string]want // by the capture's directory
}

type vm struct {
	*fakeVMM
	lineage *Lineage
}

func worldDisks() []Disk { return []Disk{{Name: "data"}} }

func newWorld(t *testing.T, root string) *world {
	w := &world{t: t, root: root, vms: map[string]*vm{}, wants: map[string]want{}}
	dir := w.name("boot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	v := &fakeVMM{dir: dir, memory: make([]byte, fakeMemory), state: hypervisor.Running}
	v.setDisk(t, "data", "")
	w.vms[dir] = &vm{v, Booted(true)}
	return w
}

func (w *world) name(kind string) string {
	w.next++
	return filepath.Join(w.root, fmt.Sprintf("%s-%d", kind, w.next))
}

// pick chooses among names, or skips the action where there are none.
func pick[V any](t *rapid.T, label string, m map[string]V) string {
	names := slices.Sorted(maps.Keys(m))
	if len(names) == 0 {
		t.Skip("nothing to choose from")
	}
	return rapid.SampledFrom(names).Draw(t, label)
}

func (w *world) write(t *rapid.T) {
	v := w.vms[pick(t, "vm", w.vms)]
	for range rapid.IntRange(1, 5).Draw(t, "pages") {
		v.set(rapid.IntRange(0, fakePages-1).Draw(t, "page"), rapid.SampledFrom([]byte{0, 0, 1, 2, 3, 255}).Draw(t, "value"))
	}
	v.setDisk(w.t, "data", fmt.Sprint("disk of ", rapid.Uint16().Draw(t, "disk")))
}

func (w *world) take(t *rapid.T) {
	dir := pick(t, "vm", w.vms)
	v := w.vms[dir]
	r := v.request(v.lineage)
	r.Disks = worldDisks()
	// The last one lives on, or nothing would be left to do.
	r.Stop = len(w.vms) > 1 && rapid.Bool().Draw(t, "stop")
	held := v.now(w.t, r.Disks)
	result, err := Take(w.t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	w.wants[result.Capture.Dir] = held
	if r.Stop {
		delete(w.vms, dir)
	}
}

func (w *world) fork(t *rapid.T) {
	from := pick(t, "capture", w.wants)
	c, err := Open(from)
	if err != nil {
		t.Fatal(err)
	}
	dir := w.name("fork")
	f, err := Fork(w.t.Context(), c, ForkOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w.wants[f.Capture.Dir] = w.wants[from]
	w.vms[dir] = &vm{restoreFake(w.t, dir, f.Capture), Restored(f.Capture, rapid.Bool().Draw(t, "tracking"))}
}

func (w *world) link(t *rapid.T) {
	from := pick(t, "capture", w.wants)
	c, err := Open(from)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Link(w.t.Context(), c, w.name("snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	w.wants[l.Capture.Dir] = w.wants[from]
}

func (w *world) remove(t *rapid.T) {
	dir := pick(t, "capture", w.wants)
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	delete(w.wants, dir)
}

// flatten replaces what an image consists of, and not what it holds.
func (w *world) flatten(t *rapid.T) {
	c, err := Open(pick(t, "capture", w.wants))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := memimage.Flatten(w.t.Context(), memimage.FlattenOptions{Manifest: c.ManifestPath()}); err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "prune") {
		if _, err := memimage.Prune(c.ManifestPath()); err != nil {
			t.Fatal(err)
		}
	}
}

// check compares all that survives with the model.
func (w *world) check(t *rapid.T) {
	for dir, held := range w.wants {
		c, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readImage(w.t, c), held.memory) {
			t.Fatalf("%s: the memory differs", dir)
		}
		if readFile(w.t, c.StatePath()) != string(held.state) || readFile(w.t, filepath.Join(dir, DisksDir, "data")) != held.disks["data"] {
			t.Fatalf("%s: VM state or disk differs", dir)
		}
	}
}

// TestAnyOrderOfLife does anything in any order and at any depth.
func TestAnyOrderOfLife(t *testing.T) {
	root := memoryDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "world")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		w := newWorld(t, dir)
		rt.Repeat(map[string]func(*rapid.T){
			"write": w.write, "take": w.take, "fork": w.fork, "link": w.link, "remove": w.remove, "flatten": w.flatten, "": w.check,
		})
	})
}
