package memimage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// stackDir makes an image of two layers in a new directory.
func stackDir(t *testing.T) (string, Manifest) {
	t.Helper()
	skipWithoutHoles(t)
	base, top := t.TempDir(), t.TempDir()
	full := mustSeal(t, base, Manifest{}, 6, map[int][]byte{0: page(1), 2: page(2), 3: page(3)})
	linkLayers(t, base, top, full.Manifest)
	return top, mustSeal(t, top, full.Manifest, 6, map[int][]byte{2: page(0), 4: page(4)}).Manifest
}

func TestOpenNamesTheFileAndTheRemedy(t *testing.T) {
	change := func(name func(Manifest) string, do func(path string) error) func(string, Manifest) (string, error) {
		return func(dir string, m Manifest) (string, error) {
			path := filepath.Join(dir, name(m))
			return path, do(path)
		}
	}
	manifest := func(Manifest) string { return ManifestName }
	layer := func(m Manifest) string { return m.Layers[0].File }
	index := func(m Manifest) string { return m.Layers[1].Index }
	// A new file in place of the old: the old one is immutable and has two names.
	replace := func(data []byte) func(string) error {
		return func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, data, 0o644))
		}
	}
	resize := func(size int64) func(string) error {
		return func(path string) error { return errors.Join(replace([]byte{1})(path), os.Truncate(path, size)) }
	}
	symlink := func(path string) error {
		return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
	}
	fifo := func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) }
	flip := func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 4
		return replace(data)(path)
	}
	for name, c := range map[string]struct {
		damage func(string, Manifest) (string, error)
		want   error
	}{
		"manifest missing":   {change(manifest, os.Remove), ErrMissing},
		"manifest empty":     {change(manifest, replace(nil)), ErrEmpty},
		"manifest garbage":   {change(manifest, replace([]byte("{}"))), ErrCorrupt},
		"manifest huge":      {change(manifest, resize(1<<40)), ErrCorrupt},
		"manifest directory": {change(manifest, func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }), ErrNotRegular},
		"layer missing":      {change(layer, os.Remove), ErrMissing},
		"layer empty":        {change(layer, replace(nil)), ErrEmpty},
		"layer truncated":    {change(layer, resize(5*PageSize)), ErrTruncated},
		"layer cut in page":  {change(layer, resize(6*PageSize-1)), ErrTruncated},
		"layer too long":     {change(layer, resize(7*PageSize)), ErrMismatch},
		"layer symlink":      {change(layer, symlink), ErrNotRegular},
		"layer pipe":         {change(layer, fifo), ErrNotRegular},
		"index missing":      {change(index, os.Remove), ErrMissing},
		"index empty":        {change(index, replace(nil)), ErrEmpty},
		"index flipped":      {change(index, flip), ErrCorrupt},
		"index huge":         {change(index, resize(1<<40)), ErrCorrupt},
		"index of another": {func(dir string, m Manifest) (string, error) {
			path := filepath.Join(dir, m.Layers[1].Index)
			data, err := os.ReadFile(filepath.Join(dir, m.Layers[0].Index))
			return path, errors.Join(err, replace(data)(path))
		}, ErrMismatch},
		"index of other size": {func(dir string, m Manifest) (string, error) {
			path := filepath.Join(dir, m.Layers[1].Index)
			ix, err := NewIndex(m.Layers[1].ID, Run{0, 7, Data})
			return path, errors.Join(err, replace(ix.Encode())(path))
		}, ErrMismatch},
		"full layer with gaps": {func(dir string, m Manifest) (string, error) {
			path := filepath.Join(dir, m.Layers[0].Index)
			ix, err := NewIndex(m.Layers[0].ID, Run{0, 5, Data}, Run{5, 1, Absent})
			return path, errors.Join(err, replace(ix.Encode())(path))
		}, ErrMismatch},
		"unreadable": {change(layer, func(p string) error { return os.Chmod(p, 0) }), ErrUnreadable},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "unreadable" && os.Geteuid() == 0 {
				t.Skip("root may read every file; run the tests as an ordinary user")
			}
			dir, m := stackDir(t)
			path, err := c.damage(dir, m)
			if err != nil {
				t.Fatal(err)
			}
			before := openFiles(t)
			_, err = Open(filepath.Join(dir, ManifestName))
			var fault *FileError
			if !errors.Is(err, c.want) || !errors.As(err, &fault) {
				t.Fatalf("error %v, want a FileError that is %q", err, c.want)
			}
			if fault.Path != path || fault.Remedy == "" || !strings.Contains(err.Error(), fault.Remedy) {
				t.Errorf("error %v does not name %s and a remedy", err, path)
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open, %d were before", after, before)
			}
		})
	}
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestImageDescribesItself(t *testing.T) {
	dir, m := stackDir(t)
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	if img.Size() != 6*PageSize || img.Pages() != 6 {
		t.Errorf("size %d of %d pages, want 6 pages", img.Size(), img.Pages())
	}
	if _, err := img.FlatPath(); !errors.Is(err, ErrNotFlat) {
		t.Errorf("flat path of a stack: error %v", err)
	}
	layers := img.Layers()
	for i, l := range layers {
		entry := m.Layers[i]
		if l.ID() != entry.ID || l.Kind() != entry.Kind || l.Size() != entry.Size || l.Path() != filepath.Join(dir, entry.File) {
			t.Errorf("layer %d is %s %s of %d bytes at %s, want %+v", i, l.ID(), l.Kind(), l.Size(), l.Path(), entry)
		}
	}
	if got, want := layers[0].Counts(), (Counts{Data: 3, Zero: 3}); got != want {
		t.Errorf("oldest layer %+v, want %+v", got, want)
	}
	if got, want := layers[1].Counts(), (Counts{Data: 1, Zero: 1, Absent: 4}); got != want {
		t.Errorf("newest layer %+v, want %+v", got, want)
	}
	for p, want := range []*Layer{layers[0], nil, nil, layers[0], layers[1], nil} {
		loc := img.Resolve(uint64(p))
		if loc.Layer != want || loc.Zero != (want == nil) || want != nil && loc.Offset != int64(p)*PageSize {
			t.Errorf("page %d resolves to %+v", p, loc)
		}
	}
}

func TestFlatPath(t *testing.T) {
	dir := t.TempDir()
	m := mustSeal(t, dir, Manifest{}, 2, map[int][]byte{1: page(1)}).Manifest
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	got, err := img.FlatPath()
	if want := filepath.Join(dir, m.Layers[0].File); got != want || err != nil {
		t.Errorf("flat path %q, %v, want %q", got, err, want)
	}
}

func TestImageLivesUntilTheLastClose(t *testing.T) {
	dir, _ := stackDir(t)
	img := mustOpen(t, dir)
	var wg sync.WaitGroup
	for range 8 {
		if err := img.Retain(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			buf := make([]byte, PageSize)
			if _, err := img.Resolve(3).Layer.ReadAt(buf, 3*PageSize); err != nil || buf[0] != 3 {
				t.Errorf("read %d, %v", buf[0], err)
			}
			if err := img.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	file := img.Layers()[0].File()
	if _, err := file.Stat(); err != nil {
		t.Errorf("closed before its last holder left: %v", err)
	}
	mustClose(t, img)
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("still open after the last holder left: %v", err)
	}
	if err := img.Retain(); !errors.Is(err, ErrClosed) {
		t.Errorf("retain after the last close: %v", err)
	}
	if err := img.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("one close too many: %v", err)
	}
}

func TestReadAtTheEdges(t *testing.T) {
	dir, _ := stackDir(t)
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	whole := bytes.Join([][]byte{page(1), page(0), page(0), page(3), page(4), page(0)}, nil)
	for _, c := range []struct{ off, n int }{
		{0, len(whole)}, {1, 1}, {PageSize - 1, 2}, {2*PageSize + 5, 2 * PageSize}, {len(whole) - 1, 1}, {5, 0},
	} {
		got := bytes.Repeat([]byte{0xee}, c.n)
		if n, err := img.ReadAt(got, int64(c.off)); n != c.n || err != nil || !bytes.Equal(got, whole[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: %d, %v, equal %v", c.n, c.off, n, err, bytes.Equal(got, whole[c.off:c.off+n]))
		}
	}
	if n, err := img.ReadAt(make([]byte, 10), int64(len(whole)-4)); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if _, err := img.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("negative offset: no error")
	}
}

func TestLayerTruncatedInUseIsNeverZeros(t *testing.T) {
	dir := t.TempDir()
	m := mustSeal(t, dir, Manifest{}, 4, map[int][]byte{0: page(1), 3: page(3)}).Manifest
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	path := filepath.Join(dir, m.Layers[0].File)
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 3*PageSize+100)); err != nil {
		t.Fatal(err)
	}
	buf := page(0xee)
	_, err := img.Layers()[0].ReadAt(buf, 3*PageSize)
	var fault *FileError
	if !errors.Is(err, ErrTruncated) || !errors.As(err, &fault) || fault.Path != path {
		t.Errorf("layer: error %v, want a FileError about %s", err, path)
	}
	if n, err := img.ReadAt(buf, 3*PageSize); n != 100 || !errors.Is(err, ErrTruncated) {
		t.Errorf("image: %d bytes, error %v", n, err)
	}
}

func TestIndexIsTheTruthNotTheHoles(t *testing.T) {
	dir, m := stackDir(t)
	// A copy without holes, as cp or an object store would make it.
	dense := t.TempDir()
	linkLayers(t, dir, dense, m)
	path := filepath.Join(dense, m.Layers[1].File)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.Remove(path), os.WriteFile(path, data, 0o444), os.WriteFile(filepath.Join(dense, ManifestName), manifest, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	img := mustOpen(t, dense)
	defer mustClose(t, img)
	for p, want := range []byte{1, 0, 0, 3, 4, 0} {
		if got := readPage(t, img, uint64(p)); !bytes.Equal(got, page(want)) {
			t.Errorf("page %d begins with %d, want %d", p, got[0], want)
		}
	}
}

func TestFilesystemClass(t *testing.T) {
	for magic, want := range map[uint32]FilesystemClass{
		unix.EXT4_SUPER_MAGIC: Local, unix.XFS_SUPER_MAGIC: Local, unix.TMPFS_MAGIC: Local,
		unix.NFS_SUPER_MAGIC: Dear, unix.FUSE_SUPER_MAGIC: Dear, unix.CIFS_SUPER_MAGIC: Dear, 0x1234: Local,
	} {
		if got := classOf(magic); got != want {
			t.Errorf("magic %#x is %v, want %v", magic, got, want)
		}
	}
	dir := t.TempDir()
	mustSeal(t, dir, Manifest{}, 1, nil)
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if got, want := img.Layers()[0].Filesystem(), classOf(uint32(st.Type)); got != want {
		t.Errorf("layer on %#x is %v, want %v", st.Type, got, want)
	}
}

func TestLibrarySharesEqualStacks(t *testing.T) {
	dir, m := stackDir(t)
	fork := t.TempDir()
	linkLayers(t, dir, fork, m)
	data, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fork, ManifestName), data, 0o644); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	mustSeal(t, other, Manifest{}, 1, map[int][]byte{0: page(9)})

	var lib Library
	open := func(dir string) *Image {
		t.Helper()
		img, err := lib.Open(filepath.Join(dir, ManifestName))
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	a, b, c := open(dir), open(fork), open(other)
	if a != b {
		t.Error("two names of one stack give two images")
	}
	if a == c || lib.Len() != 2 {
		t.Errorf("%d images are open, want 2 different ones", lib.Len())
	}
	// The owner of the first name goes: the other still reads.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mustClose(t, a)
	if got := readPage(t, b, 3); !bytes.Equal(got, page(3)) {
		t.Errorf("page 3 begins with %d", got[0])
	}
	// A directory that lacks a layer is refused although another has it.
	if err := os.Remove(filepath.Join(fork, m.Layers[0].File)); err != nil {
		t.Fatal(err)
	}
	if _, err := lib.Open(filepath.Join(fork, ManifestName)); !errors.Is(err, ErrMissing) {
		t.Errorf("open without a layer: %v, want ErrMissing", err)
	}
	mustClose(t, b)
	mustClose(t, c)
	if lib.Len() != 0 {
		t.Errorf("%d images are open after the last close", lib.Len())
	}
}

func TestLibraryKeepsTheFasterOpener(t *testing.T) {
	dir, m := stackDir(t)
	var lib Library
	fast, slow := mustOpen(t, dir), mustOpen(t, dir)
	if lib.add("key", fast) != fast {
		t.Error("the first image of a stack is not kept")
	}
	if lib.add("key", slow) != fast {
		t.Error("the second image of a stack replaces the first")
	}
	mustClose(t, slow)
	mustClose(t, fast)
	if lib.Len() != 1 {
		t.Errorf("%d images after the second opener left, want the one it was given", lib.Len())
	}
	mustClose(t, fast)
	if lib.Len() != 0 {
		t.Errorf("%d images are open after the last close of %d layers", lib.Len(), len(m.Layers))
	}
}

func TestLibraryFromManyGoroutines(t *testing.T) {
	dir, _ := stackDir(t)
	var lib Library
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				img, err := lib.Open(filepath.Join(dir, ManifestName))
				if err != nil {
					t.Error(err)
					return
				}
				if !img.Resolve(1).Zero {
					t.Error("page 1 is not zero")
				}
				if err := img.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if lib.Len() != 0 {
		t.Errorf("%d images are open after the last close", lib.Len())
	}
}
