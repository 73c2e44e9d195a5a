package memimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// shareTo shares the image in dir into a new directory and returns that.
func shareTo(t *testing.T, dir string) (string, SharedImage) {
	t.Helper()
	fork := t.TempDir()
	out, err := ShareImage(context.Background(), filepath.Join(dir, ManifestName), fork)
	check(t, err)
	return fork, out
}

func TestForkOutlivesItsSource(t *testing.T) {
	dir, m := stackDir(t)
	want := contents(t, dir)
	names := make(map[LayerID]uint64)
	for _, entry := range m.Layers {
		mem, _ := layerPaths(dir, entry)
		names[entry.ID] = stat(t, mem).Nlink
	}
	fork, out := shareTo(t, dir)
	if out.Rungs[HardLink] != 2*len(m.Layers) || len(out.Reasons) != 0 {
		t.Errorf("shared by %v because of %v", out.Rungs, out.Reasons)
	}
	for _, entry := range m.Layers {
		mem, idx := layerPaths(fork, entry)
		if got, want := stat(t, mem).Nlink, names[entry.ID]+1; got != want || stat(t, idx).Nlink != want {
			t.Errorf("layer %s and its index have %d and %d names, want %d", entry.ID, got, stat(t, idx).Nlink, want)
		}
	}
	check(t, os.RemoveAll(dir))
	if got := contents(t, fork); !bytes.Equal(got, want) {
		t.Error("the fork differs from its source")
	}
	for _, entry := range m.Layers {
		mem, _ := layerPaths(fork, entry)
		if got, want := stat(t, mem).Nlink, names[entry.ID]; got != want {
			t.Errorf("layer %s has %d names, want %d", entry.ID, got, want)
		}
	}
}

// contents reads all of an image.
func contents(t tb, dir string) []byte {
	t.Helper()
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	out := make([]byte, img.Size())
	if _, err := img.ReadAt(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestShareLayersPreparesADiff(t *testing.T) {
	dir, m := stackDir(t)
	next := t.TempDir()
	_, err := ShareLayers(context.Background(), filepath.Join(dir, ManifestName), next)
	check(t, err)
	if _, err := os.Stat(filepath.Join(next, ManifestName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("manifest: %v, want none", err)
	}
	want := contents(t, dir)
	copy(want[PageSize:], page(77))
	mustSeal(t, next, m, int(m.Pages()), map[int][]byte{1: page(77)})
	if !bytes.Equal(contents(t, next), want) {
		t.Error("the diff over shared layers differs from the model")
	}
}

func TestShareImageAcrossFilesystems(t *testing.T) {
	other := otherFilesystem(t)
	dir, m := stackDir(t)
	out, err := ShareImage(context.Background(), filepath.Join(dir, ManifestName), other)
	check(t, err)
	if out.Rungs[SparseCopy] != 2*len(m.Layers) || len(out.Reasons) != 2*len(m.Layers) {
		t.Errorf("shared by %v because of %v", out.Rungs, out.Reasons)
	}
	if !bytes.Equal(contents(t, other), contents(t, dir)) {
		t.Error("the copy differs from its source")
	}
}

func TestShareImageRefuses(t *testing.T) {
	dir, m := stackDir(t)
	manifest := filepath.Join(dir, ManifestName)
	_, err := ShareImage(context.Background(), manifest, dir)
	if !errors.Is(err, ErrExists) {
		t.Errorf("into itself: %v, want ErrExists", err)
	}
	mem, _ := layerPaths(dir, m.Layers[1])
	check(t, os.Remove(mem))
	fork := t.TempDir()
	_, err = ShareImage(context.Background(), manifest, fork)
	if !errors.Is(err, ErrMissing) {
		t.Errorf("without a layer: %v, want ErrMissing", err)
	}
	if got := tree(t, fork); got != "." {
		t.Errorf("a failed share left %s", got)
	}
}

func TestOnlyMissingSumsAreLeftOut(t *testing.T) {
	dir, m := stackDir(t)
	check(t, os.Symlink("elsewhere", filepath.Join(dir, SumsFile(m.Layers[1].ID))))
	fork := t.TempDir()
	_, err := ShareImage(context.Background(), manifestOf(dir), fork)
	if !errors.Is(err, ErrNotRegular) {
		t.Errorf("error %v, want ErrNotRegular", err)
	}
	if got := tree(t, fork); got != "." {
		t.Errorf("a failed share left %s", got)
	}
}

func TestShareImageFailsCleanlyAtEachStep(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		dir, _ := stackDir(t)
		want := contents(t, dir)
		failEach(t, errno, func() (func() error, func(string, error)) {
			fork := t.TempDir()
			work := func() error {
				_, err := ShareImage(context.Background(), filepath.Join(dir, ManifestName), fork)
				return err
			}
			return work, func(call string, err error) {
				if !bytes.Equal(contents(t, dir), want) {
					t.Error("the source has changed")
				}
				if err == nil {
					if !bytes.Equal(contents(t, fork), want) {
						t.Error("no error, and the fork differs from its source")
					}
				} else if got := tree(t, fork); got != "." {
					t.Errorf("a failed share left %s", got)
				}
			}
		})
	}
}

// BenchmarkShareImage forks images of 1 GiB and 8 GiB with a 1 % diff on top. The
// time must not depend on the size.
func BenchmarkShareImage(b *testing.B) {
	for _, gib := range []int{1, 8} {
		b.Run(fmt.Sprintf("%dGiB", gib), func(b *testing.B) {
			pages, dir, next := gib<<30/PageSize, b.TempDir(), b.TempDir()
			base := mustSeal(b, dir, Manifest{}, pages, map[int][]byte{pages - 1: page(1)}).Manifest
			linkLayers(b, dir, next, base)
			dirty := make(map[int][]byte)
			for p := 0; p < pages; p += 1000 {
				dirty[p] = page(2)
			}
			mustSeal(b, next, base, pages, dirty)
			root, n := b.TempDir(), 0
			for b.Loop() {
				fork := filepath.Join(root, fmt.Sprint(n))
				n++
				if err := os.Mkdir(fork, 0o755); err != nil {
					b.Fatal(err)
				}
				if _, err := ShareImage(b.Context(), filepath.Join(next, ManifestName), fork); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
