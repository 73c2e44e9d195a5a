package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/memimage"
)

// TestUpkeepOnTheSimulator and its sibling capture a guest again and again that works:
// in the background its image gets its checksums and stays shallow, forks made of it
// at any time are right, and damage to a captured page is found.
func TestUpkeepOnTheSimulator(t *testing.T) {
	testUpkeep(t, "fcsim", 512)
}

func TestUpkeepOnFirecracker(t *testing.T) {
	requireFirecracker(t)
	testUpkeep(t, "firecracker", 8)
}

func testUpkeep(t *testing.T, hypervisor string, words int) {
	t.Setenv("FAULTLINE_IMAGES_FLATTEN_DEPTH", "2")
	m := manage(t, hypervisor)
	m.guest = newTestGuest(m, words)
	m.guest.create(m, "source")
	m.must("start", "source")
	m.guest.booted(m, "source")
	stats := func() (s instance.Stats) {
		decode(t, m.must("stats", "--json"), &s)
		return s
	}
	dirs := map[string]string{}
	for _, name := range []string{"one", "two", "three", "four"} {
		var made instance.Snapshot
		decode(t, m.must("snapshot", "create", "source", "--name", name, "--json"), &made)
		dirs[name] = made.Dir
		m.guest.check(m, "source") // the guest goes on, and writes
	}
	m.until("flattening", func() bool {
		var info inspection
		decode(t, image(t, "inspect", dirs["four"], "--json"), &info)
		return len(info.Layers) <= 2 && info.Layers[0].Digest != "" && info.Layers[len(info.Layers)-1].Digest != ""
	})
	s := stats()
	if s.Upkeep.Flattened == 0 || s.Upkeep.Checksummed < 4 || s.Upkeep.Failed != 0 {
		t.Errorf("counted %+v", s)
	}
	if s.Shared[memimage.HardLink] == 0 || s.Unlinked != "" {
		t.Errorf("shared %+v", s)
	}
	if r := m.must("stats"); !strings.Contains(r.stdout, "by hard link") || !strings.Contains(r.stdout, "stacks flattened") {
		t.Errorf("stats: %v", r)
	}
	for name, dir := range dirs {
		if r := image(t, "verify", dir); strings.Count(r.stdout, "good") == 0 || strings.Contains(r.stdout, "no checksums") {
			t.Errorf("%s: %v", name, r)
		}
	}
	forks := m.forks(3, "snapshot", "fork", "four", "--name", "fork")
	m.must("delete", "source")
	m.must("snapshot", "delete", "one", "two", "three")
	m.guest.check(m, forks...)

	damage(t, dirs["four"])
	if r := faultline(t, binaries, nil, "image", "verify", dirs["four"]); r.code != 1 || !strings.Contains(r.stderr, "layer ") || !strings.Contains(r.stderr, "page ") {
		t.Errorf("a damaged page: %v", r)
	}
	m.must(append([]string{"delete"}, forks...)...)
	m.must("snapshot", "delete", "four")
	m.end()
}

// damage flips a bit in the first data of an image's oldest layer.
func damage(t *testing.T, dir string) {
	t.Helper()
	img, err := memimage.Open(filepath.Join(dir, memimage.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	for e := range img.Extents(0, img.Pages()) {
		if e.Location.Zero {
			continue
		}
		flipBit(t, e.Location.Layer.File().Name(), e.Location.Offset)
		return
	}
	t.Fatal("the image has no data")
}
