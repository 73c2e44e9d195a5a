package memimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func manifestOf(dir string) string { return filepath.Join(dir, ManifestName) }

// mustVerify verifies an image.
func mustVerify(t tb, dir string) Verification {
	t.Helper()
	v, err := Verify(context.Background(), manifestOf(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// changeByte flips a bit in a sealed file, as a failing disk does.
func changeByte(t tb, path string, off int64) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (off % 8)
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyFindsAFlippedBit flips one bit anywhere in a stack's layers.
func TestVerifyFindsAFlippedBit(t *testing.T) {
	skipWithoutHoles(t)
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "case")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		pages := rapid.IntRange(1, 600).Draw(t, "pages")
		m := drawStack(t, dir, pages)
		if _, err := WriteSums(context.Background(), manifestOf(dir), nil); err != nil {
			t.Fatal(err)
		}
		if err := mustVerify(t, dir).Err(); err != nil {
			t.Fatalf("a sound image: %v", err)
		}
		n := rapid.IntRange(0, len(m.Layers)-1).Draw(t, "layer")
		mem, idx := layerPaths(dir, m.Layers[n])
		off := rapid.Int64Range(0, int64(pages)*PageSize-1).Draw(t, "offset")
		changeByte(t, mem, off)
		ix, err := readIndex(idx, m.Layers[n])
		if err != nil {
			t.Fatal(err)
		}
		page := uint64(off) / PageSize
		v := mustVerify(t, dir)
		for i, l := range v.Layers {
			switch hit := i == n && ix.Lookup(page) != Absent; {
			case hit && (l.Damaged != 1 || l.Faults[0].Page != page):
				t.Fatalf("layer %d has %d faults %v, want page %d", i, l.Damaged, l.Faults, page)
			case !hit && (l.Damaged != 0 || l.Err != nil):
				t.Fatalf("layer %d has %d faults %v, %v; want none", i, l.Damaged, l.Faults, l.Err)
			}
		}
		if ix.Lookup(page) == Absent {
			return
		}
		err = v.Err()
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), string(m.Layers[n].ID)) ||
			!strings.Contains(err.Error(), fmt.Sprintf("page %d:", page)) {
			t.Fatalf("error %v does not name layer and page", err)
		}
	})
}

// drawStack seals an image of up to three layers into dir.
func drawStack(t *rapid.T, dir string, pages int) Manifest {
	var m Manifest
	last := ""
	for i, n := 0, rapid.IntRange(1, 3).Draw(t, "layers"); i < n; i++ {
		name := dir
		if i < n-1 {
			name = filepath.Join(dir, fmt.Sprint(i))
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if last != "" {
			linkLayers(t, last, name, m)
		}
		writes, _ := genWrites(t, pages)
		m, last = mustSeal(t, name, m, pages, writes).Manifest, name
	}
	return m
}

func TestDigestIsIndependentOfHoles(t *testing.T) {
	digest := func(content map[int][]byte) Digest {
		dir := t.TempDir()
		mustSeal(t, dir, Manifest{}, 64, content)
		return mustVerify(t, dir).Layers[0].Digest
	}
	sparse := map[int][]byte{3: page(3), 40: page(4)}
	dense := map[int][]byte{}
	for p := range 64 {
		dense[p] = page(0)
	}
	dense[3], dense[40] = page(3), page(4)
	if a, b := digest(sparse), digest(dense); a != b || !strings.HasPrefix(string(a), "sha256:") || len(a) != 7+64 {
		t.Errorf("digests %s and %s of one content", a, b)
	}
	moved := map[int][]byte{4: page(3), 40: page(4)}
	if a, b := digest(sparse), digest(moved); a == b {
		t.Error("a page at another place has the same digest")
	}
}

func TestVerifyWithoutSumsTrustsTheIndexAlone(t *testing.T) {
	dir := t.TempDir()
	m := mustSeal(t, dir, Manifest{}, 64, map[int][]byte{3: page(3), 5: page(0), 9: page(9)}).Manifest
	v := mustVerify(t, dir)
	if err := v.Err(); err != nil || !v.Layers[0].NoSums {
		t.Fatalf("%v, %+v; want a sound layer without checksums", err, v.Layers[0])
	}
	mem, _ := layerPaths(dir, m.Layers[0])
	changeByte(t, mem, 5*PageSize+7)
	check(t, os.Chmod(mem, 0o644))
	f, err := os.OpenFile(mem, os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt(page(0), 9*PageSize)
	check(t, err)
	check(t, f.Close())
	l := mustVerify(t, dir).Layers[0]
	if l.Damaged != 2 || l.Faults[0].Page != 5 || l.Faults[1].Page != 9 {
		t.Errorf("%d faults %v, want pages 5 and 9", l.Damaged, l.Faults)
	}
}

func TestVerifyReportsFilesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, mem, idx, sum string)
		want  error
	}{
		"missing layer": {func(t *testing.T, mem, _, _ string) { check(t, os.Remove(mem)) }, ErrMissing},
		"missing index": {func(t *testing.T, _, idx, _ string) { check(t, os.Remove(idx)) }, ErrMissing},
		"short layer": {func(t *testing.T, mem, _, _ string) {
			check(t, os.Chmod(mem, 0o644))
			check(t, os.Truncate(mem, PageSize))
		}, ErrTruncated},
		"corrupt index":   {func(t *testing.T, _, idx, _ string) { changeByte(t, idx, 50) }, ErrCorrupt},
		"corrupt sums":    {func(t *testing.T, _, _, sum string) { changeByte(t, sum, sumsHeader) }, ErrCorrupt},
		"foreign sums":    {func(t *testing.T, _, _, sum string) { rewriteSums(t, sum, 16) }, ErrMismatch},
		"another digest":  {func(t *testing.T, _, _, sum string) { rewriteSums(t, sum, 50) }, ErrMismatch},
		"sums are a link": {func(t *testing.T, _, _, sum string) { check(t, os.Remove(sum)); check(t, os.Symlink("x", sum)) }, ErrNotRegular},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := stackDir(t)
			_, err := WriteSums(context.Background(), manifestOf(dir), nil)
			check(t, err)
			mem, idx := layerPaths(dir, m.Layers[1])
			sum := filepath.Join(dir, SumsFile(m.Layers[1].ID))
			c.spoil(t, mem, idx, sum)
			files := openFiles(t)
			v := mustVerify(t, dir)
			if err := v.Err(); !errors.Is(err, c.want) || !strings.Contains(err.Error(), string(m.Layers[1].ID)) {
				t.Errorf("error %v, want %v with the layer's id", err, c.want)
			}
			if len(v.Layers) != len(m.Layers) || v.Layers[0].Err != nil || v.Layers[0].Damaged != 0 {
				t.Errorf("the other layer: %+v", v.Layers[0])
			}
			if got := openFiles(t); got != files {
				t.Errorf("%d files are open, %d were before", got, files)
			}
		})
	}
}

// rewriteSums changes a byte of the header and makes the checksums right again.
func rewriteSums(t *testing.T, path string, off int) {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	data[off]++
	check(t, os.Remove(path))
	check(t, os.WriteFile(path, resealSums(data), 0o444))
}

func TestSumsTravelWithShares(t *testing.T) {
	dir, m := stackDir(t)
	written, err := WriteSums(context.Background(), manifestOf(dir), nil)
	check(t, err)
	if len(written) != len(m.Layers) {
		t.Errorf("wrote checksums of %v, want of %d layers", written, len(m.Layers))
	}
	fork, _ := shareTo(t, dir)
	for _, l := range mustVerify(t, fork).Layers {
		if l.NoSums {
			t.Errorf("layer %s came without its checksums", l.ID)
		}
	}
	written, err = WriteSums(context.Background(), manifestOf(fork), nil)
	if len(written) != 0 || err != nil {
		t.Errorf("wrote %v again, %v", written, err)
	}
}

func TestProgressReachesItsTotal(t *testing.T) {
	dir, _ := stackDir(t)
	for name, work := range map[string]func(Progress) error{
		"sums":   func(p Progress) error { _, err := WriteSums(context.Background(), manifestOf(dir), p); return err },
		"verify": func(p Progress) error { _, err := Verify(context.Background(), manifestOf(dir), p); return err },
	} {
		var last, end uint64
		check(t, work(func(done, total uint64) {
			if done < last || done > total || end != 0 && total != end {
				t.Errorf("%s: %d of %d after %d of %d", name, done, total, last, end)
			}
			last, end = done, total
		}))
		if last != end || end == 0 {
			t.Errorf("%s ended at %d of %d", name, last, end)
		}
	}
}

func TestWriteSumsFailsCleanlyAtEachStep(t *testing.T) {
	failEach(t, unix.EIO, func() (func() error, func(string, error)) {
		dir, _ := stackDir(t)
		work := func() error { _, err := WriteSums(context.Background(), manifestOf(dir), nil); return err }
		return work, func(call string, err error) {
			assertNoTemporaries(t, dir)
			v := mustVerify(t, dir)
			if err := v.Err(); err != nil {
				t.Error(err)
			}
			complete := !slices.ContainsFunc(v.Layers, func(l LayerCheck) bool { return l.NoSums })
			if err == nil && !complete {
				t.Error("no error, and checksums are missing")
			}
		}
	})
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	dir, _ := stackDir(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Verify(ctx, manifestOf(dir), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := WriteSums(ctx, manifestOf(dir), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
