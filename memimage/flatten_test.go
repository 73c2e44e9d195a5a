package memimage

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestFlattenInPlace(t *testing.T) {
	dir, m := stackDir(t)
	want := contents(t, dir)
	fork, _ := shareTo(t, dir)
	user := mustOpen(t, dir)
	defer mustClose(t, user)
	var files []unix.Stat_t
	for _, entry := range m.Layers {
		mem, _ := layerPaths(dir, entry)
		files = append(files, stat(t, mem))
	}
	out, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir)})
	check(t, err)
	if len(out.Manifest.Layers) != 1 || out.Manifest.Layers[0].Kind != Full || len(out.Superseded) != 2 {
		t.Errorf("flattened to %+v", out)
	}
	// Pages 0, 3 and 4 are data; 1 and 5 never were, 2 no longer is.
	if want := (Counts{Data: 3, Zero: 3}); out.Pages != want {
		t.Errorf("pages %+v, want %+v", out.Pages, want)
	}
	img := mustOpen(t, dir)
	path, err := img.FlatPath()
	check(t, err)
	mustClose(t, img)
	flat, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(flat, want) || !bytes.Equal(contents(t, dir), want) || !bytes.Equal(contents(t, fork), want) {
		t.Error("flat file, image or fork differs from the stack")
	}
	if st := stat(t, path); st.Mode&0o777 != 0o444 || st.Nlink != 1 || st.Blocks > 3*PageSize/512+8 {
		t.Errorf("flat layer has mode %o, %d names and %d blocks", st.Mode&0o777, st.Nlink, st.Blocks)
	}
	for i, entry := range m.Layers {
		mem, _ := layerPaths(dir, entry)
		if diff := cmp.Diff(files[i].Mtim, stat(t, mem).Mtim); diff != "" || stat(t, mem).Ino != files[i].Ino {
			t.Errorf("layer %d was touched: %s", i, diff)
		}
	}
	removed, err := Prune(manifestOf(dir))
	check(t, err)
	if len(removed) != 4 {
		t.Errorf("pruned %v, want two layers and two indexes", removed)
	}
	if got := make([]byte, len(want)); true {
		if _, err := user.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("an image that was open all along: %v, bytes equal %v", err, bytes.Equal(got, want))
		}
	}
	if !bytes.Equal(contents(t, dir), want) || !bytes.Equal(contents(t, fork), want) {
		t.Error("image or fork differs after pruning")
	}
}

func TestFlattenIntoAnotherDirectory(t *testing.T) {
	dir, m := stackDir(t)
	want, before := contents(t, dir), tree(t, dir)
	dst := t.TempDir()
	_, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir), Dir: dst})
	check(t, err)
	if got := contents(t, dst); !bytes.Equal(got, want) {
		t.Error("the flat image differs from the stack")
	}
	if got := tree(t, dir); got != before {
		t.Errorf("source holds\n%s\nbefore\n%s", got, before)
	}
	_, err = Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir), Dir: dst})
	if !errors.Is(err, ErrExists) {
		t.Errorf("a second time: %v, want ErrExists", err)
	}
	// A flat image is shared, not copied.
	again := t.TempDir()
	out, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dst), Dir: again})
	check(t, err)
	mem, _ := layerPaths(again, out.Manifest.Layers[0])
	if len(out.Superseded) != 0 || stat(t, mem).Nlink != 2 || len(m.Layers) != 2 {
		t.Errorf("flat image: %+v, %d names", out, stat(t, mem).Nlink)
	}
}

func TestFlattenLeavesRoom(t *testing.T) {
	dir, m := stackDir(t)
	for _, spare := range []uint64{1 << 62, math.MaxUint64} {
		_, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir), Spare: spare})
		if !errors.Is(err, unix.ENOSPC) || tree(t, dir) != needed(m) {
			t.Errorf("with %d bytes to spare: %v, left\n%s", spare, err, tree(t, dir))
		}
	}
	_, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir), Spare: 1})
	check(t, err)
}

// flattenVerdict checks what a failed or finished Flatten of stack m left in dir.
func flattenVerdict(t *testing.T, dir string, m Manifest, want []byte, err error) {
	t.Helper()
	now, rerr := ReadManifest(manifestOf(dir))
	check(t, rerr)
	if err == nil && len(now.Layers) != 1 {
		t.Error("no error, and the image is still a stack")
	}
	if !bytes.Equal(contents(t, dir), want) {
		t.Error("the image has changed")
	}
	for _, entry := range m.Layers {
		mem, idx := layerPaths(dir, entry)
		stat(t, mem)
		stat(t, idx)
	}
}

// needed lists what an image's directory must hold and nothing else.
func needed(m Manifest) string {
	names := []string{".", LayersDir, ManifestName}
	for _, entry := range m.Layers {
		names = append(names, entry.File, entry.Index)
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

func TestFlattenFailsCleanlyAtEachStep(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		failEach(t, errno, func() (func() error, func(string, error)) {
			dir, m := stackDir(t)
			want := contents(t, dir)
			work := func() error {
				_, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir)})
				return err
			}
			return work, func(call string, err error) {
				assertNoTemporaries(t, dir)
				flattenVerdict(t, dir, m, want, err)
				now, rerr := ReadManifest(manifestOf(dir))
				check(t, rerr)
				if err != nil && len(now.Layers) == 2 && tree(t, dir) != needed(m) {
					t.Errorf("a failed flatten left\n%s", tree(t, dir))
				}
			}
		})
	}
}

func TestCancelledFlattenLeavesTheStack(t *testing.T) {
	dir, m := stackDir(t)
	want := contents(t, dir)
	for looks := 0; ; looks++ {
		ctx := &countdown{Context: context.Background(), left: looks, end: cancelled}
		_, err := Flatten(ctx, FlattenOptions{Manifest: manifestOf(dir)})
		flattenVerdict(t, dir, m, want, err)
		if err == nil {
			if looks < 3 {
				t.Errorf("looked at its context %d times only", looks)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if got := tree(t, dir); got != needed(m) {
			t.Fatalf("after %d looks: left\n%s", looks, got)
		}
	}
}

func TestPruneLeavesForeignFilesAlone(t *testing.T) {
	dir, m := stackDir(t)
	keep := []string{"vmstate", "workingset", ".hidden", filepath.Join(LayersDir, "notes.txt"), filepath.Join(LayersDir, "mem.raw")}
	junk := []string{
		".memory.json.tmp-1", filepath.Join(LayersDir, ".x.mem.tmp-2"), filepath.FromSlash(LayerFile(testID(9))),
		filepath.FromSlash(IndexFile(testID(9))), filepath.FromSlash(SumsFile(testID(9))),
	}
	for _, name := range append(slices.Clone(keep), junk...) {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	removed, err := Prune(manifestOf(dir))
	check(t, err)
	slices.Sort(removed)
	var want []string
	for _, name := range junk {
		want = append(want, filepath.Join(dir, name))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	for _, name := range keep {
		stat(t, filepath.Join(dir, name))
	}
	mustClose(t, mustOpen(t, dir))
	if _, err := Prune(filepath.Join(t.TempDir(), ManifestName)); !errors.Is(err, ErrMissing) || len(m.Layers) != 2 {
		t.Errorf("without a manifest: %v, want ErrMissing", err)
	}
}

// TestOpenWhileFlattenedAndPruned reads an image again and again while its owner
// stacks and flattens it.
func TestReadersWhileFlattenedAndPruned(t *testing.T) {
	dir, _ := stackDir(t)
	want := contents(t, dir)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	var library Library
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			for _, open := range []func(string) (*Image, error){Open, library.Open} {
				img, err := open(manifestOf(dir))
				if err != nil {
					stopped <- err
					return
				}
				got := make([]byte, len(want))
				_, err = img.ReadAt(got, 0)
				if err = errors.Join(err, img.Close()); err != nil || !bytes.Equal(got, want) {
					stopped <- errors.Join(err, errors.New("or the bytes differ"))
					return
				}
			}
		}
	}()
	for range 30 {
		stack, m := stackDir(t)
		// A stack comes into the directory by the same way as a flat image does.
		for _, entry := range m.Layers {
			for _, name := range []string{entry.File, entry.Index} {
				check(t, os.Link(filepath.Join(stack, name), filepath.Join(dir, name)))
			}
		}
		check(t, os.Rename(manifestOf(stack), manifestOf(dir)))
		_, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir)})
		check(t, err)
		_, err = Prune(manifestOf(dir))
		check(t, err)
	}
	close(stop)
	check(t, <-stopped)
}

func TestInspect(t *testing.T) {
	dir, m := stackDir(t)
	_, err := WriteSums(context.Background(), manifestOf(dir), nil)
	check(t, err)
	fork, _ := shareTo(t, dir)
	got, err := Inspect(manifestOf(fork))
	check(t, err)
	// Four data pages, of which page 2 of the base is hidden by a zero page.
	if got.Size != 6*PageSize || got.Zero != 3 || got.Superseded != 0.25 || len(got.Layers) != 2 {
		t.Errorf("inspection %+v", got)
	}
	for i, want := range []LayerInfo{
		{ID: m.Layers[0].ID, Kind: Full, Data: 3, Zero: 3, Contributes: 2},
		{ID: m.Layers[1].ID, Kind: Diff, Data: 1, Zero: 1, Absent: 4, Contributes: 1},
	} {
		l := got.Layers[i]
		mem, _ := layerPaths(fork, m.Layers[i])
		st := stat(t, mem)
		want.Path, want.Size, want.Names, want.DiskBytes = mem, 6*PageSize, st.Nlink, uint64(st.Blocks)*512
		want.Digest = mustVerify(t, fork).Layers[i].Digest
		if diff := cmp.Diff(want, l); diff != "" {
			t.Errorf("layer %d (-want +got):\n%s", i, diff)
		}
		if l.Names < 2 || want.Digest == "" {
			t.Errorf("layer %d has %d names and digest %q", i, l.Names, want.Digest)
		}
	}
}

func TestFlattenPolicy(t *testing.T) {
	stack := func(layers int, superseded float64) Inspection {
		return Inspection{Layers: make([]LayerInfo, layers), Superseded: superseded}
	}
	p := FlattenPolicy{MaxDepth: 4, MaxSuperseded: 0.5}
	for _, c := range []struct {
		policy FlattenPolicy
		image  Inspection
		want   string
	}{
		{p, stack(4, 0.5), ""}, {p, stack(5, 0), "5 layers"}, {p, stack(2, 0.6), "60 %"}, {p, stack(1, 0.9), ""},
		{FlattenPolicy{}, stack(100, 1), ""},
	} {
		got := c.policy.Due(c.image)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v of %d layers, %v superseded: %q, want %q", c.policy, len(c.image.Layers), c.image.Superseded, got, c.want)
		}
	}
}
