package memimage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// sealRaw seals the file "raw" in dir as a flat image.
func sealRaw(ctx context.Context, dir string) (Sealed, error) {
	return Seal(ctx, SealOptions{Source: filepath.Join(dir, "raw"), Dir: dir, Kind: Full})
}

// TestStackEqualsModel seals random captures one over the other, and compares
// every page of every image, old ones included, with a byte array.
func TestStackEqualsModel(t *testing.T) {
	skipWithoutHoles(t)
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "case")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		pages := rapid.IntRange(1, 600).Draw(t, "pages")
		model := make([]byte, pages*PageSize)
		var last string
		var m Manifest
		for i := range rapid.IntRange(1, 5).Draw(t, "captures") {
			writes, want := genWrites(t, pages)
			for p, data := range writes {
				copy(model[p*PageSize:], data)
			}
			name := filepath.Join(dir, string(rune('a'+i)))
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				linkLayers(t, last, name, m)
			}
			out := mustSeal(t, name, m, pages, writes)
			if i == 0 {
				want.Zero += want.Absent
				want.Absent = 0
			}
			if out.Pages != want {
				t.Fatalf("capture %d has %+v, want %+v", i, out.Pages, want)
			}
			compareWithModel(t, name, model)
			last, m = name, out.Manifest
		}
	})
}

// genWrites draws what a guest wrote between two captures: runs of data and of
// zero pages. Counts are those of a diff.
func genWrites(t *rapid.T, pages int) (map[int][]byte, Counts) {
	writes := make(map[int][]byte)
	for range rapid.IntRange(0, 12).Draw(t, "writes") {
		first := rapid.IntRange(0, pages-1).Draw(t, "first")
		fill := rapid.SampledFrom([]byte{0, 1, 2, 255}).Draw(t, "fill")
		for p := first; p < min(pages, first+rapid.SampledFrom([]int{1, 2, 30, 300}).Draw(t, "length")); p++ {
			data := make([]byte, PageSize)
			// One byte, anywhere in the page, makes it a page of data.
			data[(p*37+int(fill))%PageSize] = fill
			writes[p] = data
		}
	}
	counts := Counts{Absent: uint64(pages - len(writes))}
	for _, data := range writes {
		if bytes.Equal(data, make([]byte, PageSize)) {
			counts.Zero++
		} else {
			counts.Data++
		}
	}
	return writes, counts
}

// compareWithModel reads an image in three ways.
func compareWithModel(t *rapid.T, dir string, model []byte) {
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	for p := range img.Pages() {
		if !bytes.Equal(readPage(t, img, p), model[p*PageSize:(p+1)*PageSize]) {
			t.Fatalf("page %d of %s differs from the model", p, dir)
		}
	}
	whole := make([]byte, len(model))
	if _, err := img.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, model) {
		t.Fatalf("ReadAt of %s differs from the model", dir)
	}
	if path, err := img.FlatPath(); err == nil {
		flat, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(flat, model) {
			t.Fatalf("flat file of %s differs from the model", dir)
		}
	}
}

func TestSealedFilesAreReadOnlyAndAlone(t *testing.T) {
	dir := t.TempDir()
	out := mustSeal(t, dir, Manifest{}, 3, map[int][]byte{1: page(1)})
	entry := out.Manifest.Layers[0]
	if entry.ID != out.Layer || entry.Kind != Full || entry.Size != 3*PageSize {
		t.Errorf("entry %+v of layer %s", entry, out.Layer)
	}
	for _, name := range []string{entry.File, entry.Index} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o444 {
			t.Errorf("%s has mode %v, want 0444", name, info.Mode())
		}
	}
	want := strings.Join([]string{".", LayersDir, entry.Index, entry.File, ManifestName}, "\n")
	if got := tree(t, dir); got != want {
		t.Errorf("directory holds\n%s\nwant\n%s", got, want)
	}
}

func TestZeroPagesOfFullLayerBecomeHoles(t *testing.T) {
	skipWithoutHoles(t)
	dir := t.TempDir()
	content := make(map[int][]byte)
	for p := range 1024 {
		content[p] = page(0)
	}
	content[100], content[700] = page(1), page(2)
	out := mustSeal(t, dir, Manifest{}, 1024, content)
	if out.Pages != (Counts{Data: 2, Zero: 1022}) || out.ZeroData != 1022 {
		t.Errorf("sealed %+v, want 2 pages of data and 1022 of zero data", out)
	}
	if !out.Punched {
		t.Skip("the filesystem of " + os.TempDir() + " punches no holes; set TMPDIR to ext4, XFS, btrfs or tmpfs")
	}
	f, err := os.Open(filepath.Join(dir, out.Manifest.Layers[0].File))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var extents [][2]int64
	const size = 1024 * PageSize
	for at := int64(0); at < size; {
		start, end, err := nextData(f, at, size)
		if err != nil {
			t.Fatal(err)
		}
		if start < size {
			extents = append(extents, [2]int64{start / PageSize, end / PageSize})
		}
		at = end
	}
	if len(extents) != 2 || extents[0] != [2]int64{100, 101} || extents[1] != [2]int64{700, 701} {
		t.Errorf("data extents are pages %v, want 100 and 700 alone", extents)
	}
}

func TestZeroPagesOfDiffStayDataInTheFile(t *testing.T) {
	dir, m := stackDir(t)
	f, err := os.Open(filepath.Join(dir, m.Layers[1].File))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start, end, err := nextData(f, 0, 6*PageSize)
	if start != 2*PageSize || end != 3*PageSize || err != nil {
		t.Errorf("first extent %d to %d, %v: the zero page 2 is lost from the file", start, end, err)
	}
}

func TestOneByteMakesAPageData(t *testing.T) {
	at := []int{0, 1, 7, 8, PageSize / 2, PageSize - 8, PageSize - 1}
	content := make(map[int][]byte)
	for i, off := range at {
		content[2*i] = page(0)
		content[2*i+1] = page(0)
		content[2*i+1][off] = 0x80
	}
	out := mustSeal(t, t.TempDir(), Manifest{}, 2*len(at), content)
	if want := (Counts{Data: uint64(len(at)), Zero: uint64(len(at))}); out.Pages != want {
		t.Errorf("sealed %+v, want %+v", out.Pages, want)
	}
}

func TestWholePages(t *testing.T) {
	for in, want := range map[[2]int64][2]int64{
		{0, 1}:                             {0, PageSize},
		{1024, 2048}:                       {0, PageSize},
		{PageSize - 1, PageSize + 1}:       {0, 2 * PageSize},
		{PageSize, 2 * PageSize}:           {PageSize, 2 * PageSize},
		{3*PageSize + 512, 5*PageSize - 1}: {3 * PageSize, 5 * PageSize},
	} {
		if start, end := wholePages(in[0], in[1]); [2]int64{start, end} != want {
			t.Errorf("bytes %v widen to %d, %d, want %v", in, start, end, want)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, o *SealOptions)
		want    error
	}{
		"source missing": {func(t *testing.T, o *SealOptions) { o.Source += "-none" }, ErrMissing},
		"source empty": {func(t *testing.T, o *SealOptions) {
			check(t, os.Truncate(o.Source, 0))
		}, ErrEmpty},
		"source cut in a page": {func(t *testing.T, o *SealOptions) {
			check(t, os.Truncate(o.Source, PageSize+1))
		}, ErrMismatch},
		"source with two names": {func(t *testing.T, o *SealOptions) {
			check(t, os.Link(o.Source, o.Source+"-2"))
		}, ErrShared},
		"source is a link": {func(t *testing.T, o *SealOptions) {
			check(t, os.Symlink(o.Source, o.Source+"-2"))
			o.Source += "-2"
		}, ErrNotRegular},
		"source is a directory": {func(t *testing.T, o *SealOptions) { o.Source = o.Dir }, ErrNotRegular},
		"image already there": {func(t *testing.T, o *SealOptions) {
			check(t, os.WriteFile(filepath.Join(o.Dir, ManifestName), nil, 0o600))
		}, ErrExists},
		"full layer with base": {func(t *testing.T, o *SealOptions) { o.Base = testManifest(1) }, nil},
		"diff without base":    {func(t *testing.T, o *SealOptions) { o.Kind = Diff }, nil},
		"no kind":              {func(t *testing.T, o *SealOptions) { o.Kind = "" }, nil},
		"base not in directory": {func(t *testing.T, o *SealOptions) {
			o.Kind, o.Base = Diff, testManifest(1)
		}, ErrMissing},
		"base of another size": {func(t *testing.T, o *SealOptions) {
			o.Kind, o.Base = Diff, testManifest(1)
			check(t, os.Truncate(o.Source, 5*PageSize))
		}, ErrMismatch},
		"no directory": {func(t *testing.T, o *SealOptions) { o.Dir += "/none" }, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := SealOptions{Source: filepath.Join(dir, "raw"), Dir: dir, Kind: Full}
			writeMemory(t, o.Source, 4, map[int][]byte{1: page(1)})
			c.prepare(t, &o)
			before, files := tree(t, dir), openFiles(t)
			_, err := Seal(context.Background(), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v names no file", err)
			}
			if got := tree(t, dir); got != before {
				t.Errorf("directory holds\n%s\nbefore it held\n%s", got, before)
			}
			if got := openFiles(t); got != files {
				t.Errorf("%d files are open, %d were before", got, files)
			}
		})
	}
}

// check ends the test at an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSealOntoAnotherFilesystem(t *testing.T) {
	dir, shm := t.TempDir(), "/dev/shm"
	var here, there unix.Stat_t
	check(t, unix.Stat(dir, &here))
	if err := unix.Stat(shm, &there); err != nil || here.Dev == there.Dev {
		t.Skip("no second filesystem at /dev/shm; mount a tmpfs there")
	}
	source, err := os.MkdirTemp(shm, "memimage-test")
	if err != nil {
		t.Skipf("%v; make /dev/shm writable", err)
	}
	defer os.RemoveAll(source)
	raw := filepath.Join(source, "raw")
	writeMemory(t, raw, 4, map[int][]byte{1: page(1)})
	_, err = Seal(context.Background(), SealOptions{Source: raw, Dir: dir, Kind: Full})
	if !errors.Is(err, ErrOtherFilesystem) {
		t.Fatalf("error %v, want ErrOtherFilesystem", err)
	}
	assertRaw(t, raw, dir, map[int][]byte{1: page(1)}, 4)
}

// assertRaw checks that a failed Seal left its source sealable and the directory
// without a trace.
func assertRaw(t *testing.T, raw, dir string, content map[int][]byte, pages int) {
	t.Helper()
	want := make([]byte, pages*PageSize)
	for p, data := range content {
		copy(want[p*PageSize:], data)
	}
	got, err := os.ReadFile(raw)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("source after a failed seal: %v, bytes equal %v", err, bytes.Equal(got, want))
	}
	if info, err := os.Stat(raw); err != nil || info.Mode() != 0o600 {
		t.Errorf("source after a failed seal: mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, ManifestName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("manifest after a failed seal: %v", err)
	}
	for _, name := range strings.Split(tree(t, dir), "\n") {
		if name != "." && name != "raw" && name != filepath.Base(raw) {
			t.Errorf("a failed seal left %s", name)
		}
	}
}

// countdown is a context that ends at the n-th look at it.
type countdown struct {
	context.Context
	left int
	end  func() error
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return c.end()
	}
	return nil
}

func cancelled() error { return context.Canceled }

// TestCancelledSealCanBeRepeated cancels before each step in turn. A diff with a
// zero page is the hard case: had the failed attempt made a hole of it, the
// second would take it for absent.
func TestCancelledSealCanBeRepeated(t *testing.T) {
	skipWithoutHoles(t)
	base := t.TempDir()
	full := mustSeal(t, base, Manifest{}, 8, map[int][]byte{2: page(2), 3: page(3)}).Manifest
	for _, kind := range []Kind{Full, Diff} {
		content := map[int][]byte{0: page(7), 2: page(0), 5: page(0), 6: page(6)}
		done := false
		for looks := 0; !done; looks++ {
			dir, raw := t.TempDir(), filepath.Join(t.TempDir(), "raw")
			writeMemory(t, raw, 8, content)
			o := SealOptions{Source: raw, Dir: dir, Kind: kind}
			if kind == Diff {
				o.Base = full
				linkLayers(t, base, dir, full)
			}
			before := tree(t, dir)
			_, err := Seal(&countdown{Context: context.Background(), left: looks, end: cancelled}, o)
			if done = err == nil; !done {
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("%s after %d looks: %v", kind, looks, err)
				}
				if got := tree(t, dir); got != before {
					t.Fatalf("%s after %d looks: directory holds\n%s\nbefore\n%s", kind, looks, got, before)
				}
				if _, err := Seal(context.Background(), o); err != nil {
					t.Fatalf("%s repeated after %d looks: %v", kind, looks, err)
				}
			} else if looks < 4 {
				t.Fatalf("%s looked at its context %d times only", kind, looks)
			}
			img := mustOpen(t, dir)
			for p, want := range []byte{7, 0, 0, map[Kind]byte{Full: 0, Diff: 3}[kind], 0, 0, 6, 0} {
				if got := readPage(t, img, uint64(p)); !bytes.Equal(got, page(want)) {
					t.Errorf("%s repeated after %d looks: page %d begins with %d, want %d", kind, looks, p, got[0], want)
				}
			}
			mustClose(t, img)
		}
	}
}

func TestReportsHolesIsFalseWhereBlocksAreLarge(t *testing.T) {
	mount := mountOrSkip(t, "huge=always,size=64m")
	// The kernel may lack huge pages for tmpfs, and then holes are fine again: ask
	// it in another way than the probe does.
	f, err := os.Create(filepath.Join(mount, "f"))
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(8<<20))
	_, err = f.WriteAt([]byte{1}, 4<<20+3*PageSize)
	check(t, err)
	start, err := f.Seek(0, unix.SEEK_DATA)
	check(t, err)
	if start != 4<<20 {
		t.Skip("tmpfs gives no huge pages here; use a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
	}
	ok, err := ReportsHoles(mount)
	if ok || err != nil {
		t.Errorf("holes are reported page by page: %v, %v; want no", ok, err)
	}
	// A zero page in a diff cannot be believed there.
	dir := filepath.Join(mount, "image")
	check(t, os.Mkdir(dir, 0o755))
	full := mustSeal(t, dir, Manifest{}, 2048, map[int][]byte{700: page(1)}).Manifest
	top := filepath.Join(mount, "top")
	check(t, os.Mkdir(top, 0o755))
	linkLayers(t, dir, top, full)
	raw := filepath.Join(top, "raw")
	writeMemory(t, raw, 2048, map[int][]byte{1100: page(1)})
	_, err = Seal(context.Background(), SealOptions{Source: raw, Dir: top, Kind: Diff, Base: full})
	if !errors.Is(err, ErrCoarseHoles) {
		t.Errorf("diff with doubtful zero pages: %v, want ErrCoarseHoles", err)
	}
}

// mountOrSkip mounts a tmpfs, which takes root.
func mountOrSkip(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mount a tmpfs with %s: %v; run the tests as root", options, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
