package pager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

// layerFile returns the only layer file of an image.
func layerFile(t *testing.T, manifest string) string {
	t.Helper()
	m, err := memimage.ReadManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(filepath.Dir(manifest), m.Layers[0].File)
}

// shorten damages a layer in place, for all of its names.
func shorten(t *testing.T, path string, keep int64) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, keep); err != nil {
		t.Fatal(err)
	}
}

// owner makes the directory of another owner of a layer, and returns where the layer
// lies in it.
func owner(t *testing.T, dir, layer string) string {
	t.Helper()
	path := filepath.Join(dir, memimage.LayersDir, filepath.Base(layer))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A layer that cannot be read any more is read from another owner's copy, wherever
// the pager can know of one. A further name of the same file is no copy, and one that
// is damaged itself is passed over.
func TestUnreadableLayerIsReadFromACopy(t *testing.T) {
	for name, at := range map[string]string{
		"snapshot":        "snapshots/s",
		"capture":         "instances/i/captures/c",
		"another session": "uffd/0.0.1/sessions/z/" + imageDir,
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestPager(t, MinCacheBytes)
			manifest, content := sealed(t, 64, 1, everyPage)
			layer := layerFile(t, manifest)
			data, err := os.ReadFile(layer)
			if err != nil {
				t.Fatal(err)
			}
			for dir, write := range map[string]func(path string) error{
				"instances/a/captures/link":  func(path string) error { return os.Link(layer, path) },
				"instances/a/captures/short": func(path string) error { return os.WriteFile(path, data[:4096], 0o400) },
				"instances/a/captures/long":  func(path string) error { return os.WriteFile(path, make([]byte, len(data)+4096), 0o400) },
				"instances/a/captures/dir":   func(path string) error { return os.Mkdir(path, 0o700) },
				at:                           func(path string) error { return os.WriteFile(path, data, 0o400) },
			} {
				if err := write(owner(t, filepath.Join(p.cfg.DataDir, dir), layer)); err != nil {
					t.Fatal(err)
				}
			}
			vmm := startFaulter(t, pagesOf(64))
			attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
			await(t, p, "a", control.Serving)
			shorten(t, layer, 4096)
			wantMemory(t, vmm, content)
			s, err := p.Session("a")
			if err != nil {
				t.Fatal(err)
			}
			if s.Stats.CopyReads == 0 || s.Stats.ReadRetries != readRetries {
				t.Errorf("%d reads were answered from a copy, after %d repetitions; only the first failure is to be repeated", s.Stats.CopyReads, s.Stats.ReadRetries)
			}
		})
	}
}

// A caller who keeps images outside the data directory has copies where the images of
// other sessions are.
func TestCopyBesideAnotherSessionsImage(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 16, 1, everyPage)
	layer := layerFile(t, manifest)
	other := filepath.Join(t.TempDir(), memimage.ManifestName)
	for from, to := range map[string]string{
		layer: owner(t, filepath.Dir(other), layer),
		strings.TrimSuffix(layer, ".mem") + ".idx": owner(t, filepath.Dir(other), strings.TrimSuffix(layer, ".mem")+".idx"),
		manifest: other,
	} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, data, 0o400)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	create(t, p, control.SessionRequest{ID: "other", Image: other})
	vmm := startFaulter(t, pagesOf(16))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	// As where the journals could not link the images, from another filesystem.
	journals, err := filepath.Glob(filepath.Join(p.sessionDir(), "*", imageDir))
	if err != nil || len(journals) != 2 {
		t.Fatalf("the journals have the images %v, %v", journals, err)
	}
	for _, dir := range journals {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	// The two sessions share the open image of the first, whose file this is.
	shorten(t, owner(t, filepath.Dir(other), layer), 0)
	wantMemory(t, vmm, content)
}

// Where no copy can be read either, the VMM ends, and the reason names both files.
func TestUnreadableCopyEndsTheVMM(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	layer := layerFile(t, manifest)
	copied := owner(t, filepath.Join(p.cfg.DataDir, "snapshots/s"), layer)
	if err := os.Mkdir(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	shorten(t, layer, 0)
	if got, err := vmm.Read(4096, 4096); err == nil {
		t.Fatalf("the guest was given %x…", got[:8])
	}
	wantExit(t, vmm)
	if s := await(t, p, "a", control.Failed); !strings.Contains(s.Reason, layer) || !strings.Contains(s.Reason, copied) {
		t.Errorf("the reason is %q", s.Reason)
	}
}
