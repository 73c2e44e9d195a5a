package memimage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testID returns a layer id that is easy to tell from others.
func testID(n int) LayerID { return LayerID(fmt.Sprintf("%032x", n)) }

// page returns a page of one repeated byte.
func page(b byte) []byte { return bytes.Repeat([]byte{b}, PageSize) }

// tb is what helpers need of *testing.T, *testing.B and *rapid.T.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// writeMemory makes a memory file of so many pages that holds the given ones and
// holes elsewhere, as a VMM's diff capture does.
func writeMemory(t tb, path string, pages int, content map[int][]byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(pages) * PageSize); err != nil {
		t.Fatal(err)
	}
	for p, data := range content {
		if _, err := f.WriteAt(data, int64(p)*PageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// mustSeal seals a memory file made of content into dir.
func mustSeal(t tb, dir string, base Manifest, pages int, content map[int][]byte) Sealed {
	t.Helper()
	source := filepath.Join(dir, "raw")
	writeMemory(t, source, pages, content)
	kind := Full
	if len(base.Layers) > 0 {
		kind = Diff
	}
	out, err := Seal(context.Background(), SealOptions{Source: source, Dir: dir, Kind: kind, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// linkLayers gives dir names of its own for the layers of m in from.
func linkLayers(t tb, from, dir string, m Manifest) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, LayersDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, entry := range m.Layers {
		for _, name := range []string{entry.File, entry.Index} {
			if err := os.Link(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func mustOpen(t tb, dir string) *Image {
	t.Helper()
	img, err := Open(filepath.Join(dir, ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func mustClose(t tb, img *Image) {
	t.Helper()
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
}

// readPage reads a page by resolving it and reading the file that it is in.
func readPage(t tb, img *Image, p uint64) []byte {
	t.Helper()
	out := make([]byte, PageSize)
	loc := img.Resolve(p)
	if loc.Zero {
		return out
	}
	if loc.Layer == nil {
		t.Fatalf("page %d resolves to nowhere", p)
	}
	if _, err := loc.Layer.File().ReadAt(out, loc.Offset); err != nil {
		t.Fatal(err)
	}
	return out
}

// tree lists all names below dir, for comparing a directory with what it was.
func tree(t tb, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		rel, rerr := filepath.Rel(dir, path)
		names = append(names, rel)
		if err == nil {
			err = rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// skipWithoutHoles skips where the directory's filesystem does not report holes
// page by page: sparse test files do not come out as written there.
func skipWithoutHoles(t *testing.T) {
	t.Helper()
	ok, err := ReportsHoles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Skip("the filesystem of " + os.TempDir() + " does not report holes page by page; set TMPDIR to ext4, XFS, btrfs or tmpfs")
	}
}
