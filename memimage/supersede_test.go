package memimage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// flatOf merges the image in dir into a new directory, with checksums, and returns
// what takes the place of its stack in the image of an owner.
func flatOf(t tb, dir, to, owner string) SupersedeOptions {
	t.Helper()
	was, err := ReadManifest(manifestOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(dir), Dir: to}); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteSums(context.Background(), manifestOf(to), nil); err != nil {
		t.Fatal(err)
	}
	return SupersedeOptions{Manifest: manifestOf(owner), Was: was, From: manifestOf(to)}
}

// grow puts a diff over the image in dir and returns the new image's directory.
func grow(t *testing.T, dir string, content map[int][]byte) string {
	t.Helper()
	next := t.TempDir()
	shared, err := ShareLayers(context.Background(), manifestOf(dir), next)
	check(t, err)
	mustSeal(t, next, shared.Manifest, int(shared.Manifest.Pages()), content)
	return next
}

// TestSupersede: owners of a stack, and one who has gone on from it, all get the one
// layer that it was merged into; one that has the image open keeps what it has.
func TestSupersede(t *testing.T) {
	dir, m := stackDir(t)
	fork, _ := shareTo(t, dir)
	next := grow(t, dir, map[int][]byte{5: page(9)})
	flat := t.TempDir()
	user := mustOpen(t, dir)
	defer mustClose(t, user)
	for i, owner := range []string{dir, fork, next} {
		want := contents(t, owner)
		o := SupersedeOptions{Manifest: manifestOf(owner), Was: m, From: manifestOf(flat)}
		if i == 0 {
			o = flatOf(t, dir, flat, owner)
		}
		out, err := Supersede(context.Background(), o)
		check(t, err)
		if out.Rungs[HardLink] != 3 || len(out.Reasons) != 0 {
			t.Errorf("shared by %v because of %v, want layer, index and checksums linked", out.Rungs, out.Reasons)
		}
		_, err = Prune(manifestOf(owner))
		check(t, err)
		now, err := ReadManifest(manifestOf(owner))
		check(t, err)
		if !bytes.Equal(contents(t, owner), want) || len(now.Layers) != 1+i/2 || len(out.Manifest.Layers) != len(now.Layers) {
			t.Errorf("owner %d has %d layers, its memory is the same: %v", i, len(now.Layers), bytes.Equal(contents(t, owner), want))
		}
		mem, _ := layerPaths(owner, now.Layers[0])
		if names := stat(t, mem).Nlink; names != uint64(i)+2 {
			t.Errorf("after owner %d the merged layer has %d names", i, names)
		}
		v := mustVerify(t, owner)
		if v.Err() != nil || v.Layers[0].NoSums {
			t.Errorf("owner %d: %v, checksums missing: %v", i, v.Err(), v.Layers[0].NoSums)
		}
		// It no longer begins with the stack.
		if _, err := Supersede(context.Background(), o); !errors.Is(err, ErrMismatch) {
			t.Errorf("a second time: %v, want ErrMismatch", err)
		}
	}
	got, want := make([]byte, user.Size()), contents(t, fork)
	if _, err := user.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image that was open all along: %v", err)
	}
}

// TestSupersedeBringsChecksums: an image of the same layers gives what it has more.
func TestSupersedeBringsChecksums(t *testing.T) {
	dir, m := stackDir(t)
	copied, _ := shareTo(t, dir)
	_, err := WriteSums(context.Background(), manifestOf(copied), nil)
	check(t, err)
	before, err := os.ReadFile(manifestOf(dir))
	check(t, err)
	for _, rungs := range []int{2, 0} {
		out, err := Supersede(context.Background(), SupersedeOptions{Manifest: manifestOf(dir), Was: m, From: manifestOf(copied)})
		check(t, err)
		if out.Rungs[HardLink] != rungs {
			t.Errorf("shared %v, want %d checksums", out.Rungs, rungs)
		}
		after, err := os.ReadFile(manifestOf(dir))
		check(t, err)
		if v := mustVerify(t, dir); !bytes.Equal(before, after) || v.Err() != nil || slices.ContainsFunc(v.Layers, func(l LayerCheck) bool { return l.NoSums }) {
			t.Errorf("after: %+v", v)
		}
	}
}

func TestSupersedeRefuses(t *testing.T) {
	dir, m := stackDir(t)
	other, _ := stackDir(t)
	before := tree(t, dir)
	for name, o := range map[string]SupersedeOptions{
		"another stack":    flatOf(t, other, t.TempDir(), dir),
		"a deeper stack":   {Manifest: manifestOf(dir), Was: must(ReadManifest(manifestOf(grow(t, dir, map[int][]byte{0: page(8)})))), From: manifestOf(other)},
		"nothing":          {Manifest: manifestOf(dir), Was: m, From: manifestOf(t.TempDir())},
		"no image of ours": {Manifest: manifestOf(t.TempDir()), Was: m, From: manifestOf(other)},
	} {
		if _, err := Supersede(context.Background(), o); !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
		if got := tree(t, dir); got != before {
			t.Errorf("%s: left\n%s", name, got)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSupersedeFailsCleanlyAtEachStep(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		failEach(t, errno, func() (func() error, func(string, error)) {
			dir, m := stackDir(t)
			want := contents(t, dir)
			o := flatOf(t, dir, t.TempDir(), dir)
			work := func() error { _, err := Supersede(context.Background(), o); return err }
			return work, func(call string, err error) {
				assertNoTemporaries(t, dir)
				flattenVerdict(t, dir, m, want, err)
				now := must(ReadManifest(manifestOf(dir)))
				if err != nil && len(now.Layers) == 2 && tree(t, dir) != needed(m) {
					t.Errorf("a failed attempt left\n%s", tree(t, dir))
				}
			}
		})
	}
}

// TestSupersedeWhereLinkingIsImpossible: the merged layer is copied, which is said.
func TestSupersedeWhereLinkingIsImpossible(t *testing.T) {
	dir, _ := stackDir(t)
	want := contents(t, dir)
	o := flatOf(t, dir, t.TempDir(), dir)
	var out SharedImage
	check(t, supervised(t, refuse(unix.EMLINK, "linkat"), func() (err error) {
		out, err = Supersede(context.Background(), o)
		return err
	}))
	if out.Rungs[HardLink] != 0 || len(out.Reasons) != 3 || !errors.Is(out.Reasons[0], unix.EMLINK) {
		t.Errorf("shared by %v because of %v", out.Rungs, out.Reasons)
	}
	check(t, os.RemoveAll(filepath.Dir(o.From)))
	if v := mustVerify(t, dir); v.Err() != nil || !bytes.Equal(contents(t, dir), want) {
		t.Errorf("the image is wrong: %v", v.Err())
	}
}
