package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/memimage"
)

// image runs a command about images, which has to succeed.
func image(t *testing.T, args ...string) run {
	t.Helper()
	r := faultline(t, binaries, nil, append([]string{"image"}, args...)...)
	if r.code != 0 {
		t.Fatalf("image %q: %v", args, r)
	}
	return r
}

// inspection is the part of the JSON of an image that the tests look at.
type inspection struct {
	Path    string
	Capture struct{ ID, Base string }
	Layers  []struct {
		ID, Kind, Path, Digest string
		Names                  int
	}
}

// stack captures a guest twice, ends it and returns the second capture.
func stack(t *testing.T, h *host) capture.Capture {
	t.Helper()
	m, l := h.boot("source")
	h.take(m, l, false)
	m.write()
	m.check()
	return h.take(m, l, true).Capture
}

func TestImageCommands(t *testing.T) {
	forEachHypervisor(t, func(t *testing.T, binary firecracker.Binary) {
		h := newHost(t, binary)
		c := stack(t, h)
		scratch := t.TempDir()

		var list struct{ Images []inspection }
		decode(t, image(t, "ls", "--data-dir", h.dir, "--json"), &list)
		if len(list.Images) != 2 {
			t.Errorf("listed %+v, want two captures", list.Images)
		}
		if r := image(t, "ls", c.Dir); !strings.Contains(r.stdout, c.Dir) {
			t.Errorf("ls of one image: %v", r)
		}

		svg := filepath.Join(scratch, "map.svg")
		var info inspection
		decode(t, image(t, "inspect", c.Dir, "--json", "--svg", svg), &info)
		if len(info.Layers) != 2 || info.Layers[0].Kind != "full" || info.Layers[1].Kind != "diff" || info.Layers[0].Names != 2 {
			t.Errorf("inspected %+v", info)
		}
		if info.Capture.ID != c.Record.ID || info.Capture.Base != c.Record.Base || c.Record.Base == "" {
			t.Errorf("the origin is %+v, want that of %+v", info.Capture, c.Record)
		}
		if r := image(t, "inspect", c.Dir); !strings.Contains(r.stdout, "capture "+c.Record.ID) || !strings.Contains(r.stdout, "over "+c.Record.Base) {
			t.Errorf("inspected: %v", r)
		}
		if picture, err := os.ReadFile(svg); err != nil || !bytes.Contains(picture, []byte("<svg")) || !bytes.Contains(picture, []byte(info.Layers[1].ID[:8])) {
			t.Errorf("the picture: %.200q, %v", picture, err)
		}

		// The same memory by two ways, and as a guest sees it.
		image(t, "verify", c.Dir, "--record")
		flat, merged, direct := filepath.Join(scratch, "flat"), filepath.Join(scratch, "merged.mem"), filepath.Join(scratch, "direct.mem")
		image(t, "flatten", c.Dir, "--to", flat)
		decode(t, image(t, "inspect", flat, "--json"), &info)
		if len(info.Layers) != 1 || info.Layers[0].Digest == "" {
			t.Errorf("flattened: %+v", info)
		}
		image(t, "export", flat, merged)
		image(t, "export", c.Dir, direct)
		if !bytes.Equal(read(t, merged), read(t, direct)) {
			t.Error("flattening changed the memory")
		}
		h.restoreFile(c.StatePath(), direct)

		// In place, too, and the old layers go.
		image(t, "flatten", c.Dir, "--prune")
		decode(t, image(t, "inspect", c.Dir, "--json"), &info)
		if layers, err := os.ReadDir(filepath.Join(c.Dir, memimage.LayersDir)); err != nil || len(info.Layers) != 1 || len(layers) != 3 {
			t.Errorf("after pruning: %+v, %v, %v", info, layers, err)
		}
		if r := image(t, "flatten", c.Dir, "--max-depth", "3"); !strings.Contains(r.stdout, "left as it is") {
			t.Errorf("flattening what is flat: %v", r)
		}
		h.restore("source", "flattened", c).check()
	})
}

// restoreFile restores a VM state with the File backend, in a directory of its own.
func (h *host) restoreFile(state, memory string) {
	h.t.Helper()
	dir := h.instance("from-file")
	if err := os.MkdirAll(filepath.Join(dir, capture.DisksDir), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.disk("from-file"), make([]byte, 1<<20), 0o600); err != nil {
		h.t.Fatal(err)
	}
	vmm, err := h.hv.Restore(within(h.t), hypervisor.RestoreSpec{
		Process: hypervisor.Process{Dir: dir, Input: true}, StatePath: state,
		Memory: hypervisor.Memory{Backend: hypervisor.File, Path: memory}, Resume: true,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	m := newMachine(h.t, vmm, h.w)
	m.check()
	if err := m.Kill(within(h.t)); err != nil {
		h.t.Fatal(err)
	}
}

// TestImageOfForeignFiles imports what a hypervisor wrote with nobody's help: a
// full snapshot and two diffs over it.
func TestImageOfForeignFiles(t *testing.T) {
	forEachHypervisor(t, func(t *testing.T, binary firecracker.Binary) {
		h := newHost(t, binary)
		m, _ := h.boot("source")
		for i, kind := range []hypervisor.Kind{hypervisor.Full, hypervisor.Diff, hypervisor.Diff} {
			if i > 0 {
				m.write()
				m.check()
			}
			if err := m.Pause(within(t)); err != nil {
				t.Fatal(err)
			}
			if err := m.Snapshot(within(t), hypervisor.SnapshotSpec{Kind: kind, StatePath: "state", MemoryPath: fmt.Sprintf("memory-%d", i)}); err != nil {
				t.Fatal(err)
			}
			if err := m.Resume(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Kill(within(t)); err != nil {
			t.Fatal(err)
		}
		file := func(name string) string { return filepath.Join(h.instance("source"), name) }
		imported, flat := filepath.Join(h.dir, "imported"), filepath.Join(h.dir, "flat.mem")
		r := image(t, "import", "--memory", file("memory-0"), "--diff", file("memory-1"), "--diff", file("memory-2"), "--vmstate", file("state"), "--to", imported)
		if !strings.Contains(r.stdout, "3 layers") {
			t.Errorf("import: %v", r)
		}
		image(t, "verify", imported)
		image(t, "export", imported, flat)
		h.restoreFile(filepath.Join(imported, capture.StateName), flat)

		// What can be no memory is refused, and leaves nothing.
		other := filepath.Join(h.dir, "other")
		if r := faultline(t, binaries, nil, "image", "import", "--memory", file("state"), "--to", other); r.code != 1 || !strings.Contains(r.stderr, "state") {
			t.Errorf("a VM state for memory gave %v", r)
		}
		if _, err := os.Stat(other); err == nil {
			t.Error("a failed import left its directory")
		}
	})
}

// TestImageVerifyFindsAFlippedBit: the exit code tells, and the output names layer
// and page.
func TestImageVerifyFindsAFlippedBit(t *testing.T) {
	binary, err := firecracker.Probe(t.Context(), filepath.Join(binaries, firecracker.Simulator))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, binary)
	c := stack(t, h)
	image(t, "verify", c.Dir, "--record")
	m, err := memimage.ReadManifest(c.ManifestPath())
	if err != nil {
		t.Fatal(err)
	}
	const page = guest.BaseAddress/memimage.PageSize + 7
	flipBit(t, filepath.Join(c.Dir, m.Layers[0].File), page*memimage.PageSize+99)
	r := faultline(t, binaries, nil, "image", "verify", c.Dir, "--json")
	if id := string(m.Layers[0].ID); r.code != 1 || !strings.Contains(r.stderr, id) || !strings.Contains(r.stderr, fmt.Sprint("page ", page)) {
		t.Errorf("a flipped bit gave %v", r)
	}
	var found struct {
		OK     bool
		Layers []struct {
			ID      string
			OK      bool
			Damaged int `json:"damaged_pages"`
			Faults  []struct{ Page int }
		}
	}
	decode(t, r, &found)
	if found.OK || len(found.Layers) != 2 || found.Layers[0].OK || found.Layers[0].Damaged != 1 || found.Layers[0].Faults[0].Page != page || !found.Layers[1].OK {
		t.Errorf("as JSON: %+v", found)
	}
	if r := faultline(t, binaries, nil, "image", "verify", c.Dir); r.code != 1 || !strings.Contains(r.stdout, fmt.Sprint("page ", page)) {
		t.Errorf("as a table: %v", r)
	}
}

// flipBit damages a sealed file.
func flipBit(t *testing.T, path string, offset int64) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
