package memimage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a set of image owners, each with the bytes that its memory must hold.
type world struct {
	root   string
	pages  int
	next   int
	owners []*owner
}

type owner struct {
	dir    string
	memory []byte
}

// newDir makes an empty directory for an owner.
func (w *world) newDir(t *rapid.T) string {
	w.next++
	dir := filepath.Join(w.root, fmt.Sprint(w.next))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (w *world) draw(t *rapid.T) *owner {
	return w.owners[rapid.IntRange(0, len(w.owners)-1).Draw(t, "owner")]
}

func (w *world) add(dir string, memory []byte) {
	w.owners = append(w.owners, &owner{dir: dir, memory: bytes.Clone(memory)})
}

// boot makes an image from nothing.
func (w *world) boot(t *rapid.T) {
	writes, _ := genWrites(t, w.pages)
	dir := w.newDir(t)
	mustSeal(t, dir, Manifest{}, w.pages, writes)
	memory := make([]byte, w.pages*PageSize)
	for p, data := range writes {
		copy(memory[p*PageSize:], data)
	}
	w.add(dir, memory)
}

// capture makes an image of an owner's memory after some writes, as a diff.
func (w *world) capture(t *rapid.T) {
	o, dir := w.draw(t), w.newDir(t)
	shared, err := ShareLayers(context.Background(), manifestOf(o.dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	writes, _ := genWrites(t, w.pages)
	raw := filepath.Join(w.root, "raw")
	writeMemory(t, raw, w.pages, writes)
	keep := rapid.Bool().Draw(t, "keep")
	_, err = Seal(context.Background(), SealOptions{Source: raw, Dir: dir, Kind: Diff, Base: shared.Manifest, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	if keep {
		if err := os.Remove(raw); err != nil {
			t.Fatal(err)
		}
	}
	memory := bytes.Clone(o.memory)
	for p, data := range writes {
		copy(memory[p*PageSize:], data)
	}
	w.add(dir, memory)
}

func (w *world) fork(t *rapid.T) {
	o, dir := w.draw(t), w.newDir(t)
	if _, err := ShareImage(context.Background(), manifestOf(o.dir), dir); err != nil {
		t.Fatal(err)
	}
	w.add(dir, o.memory)
}

func (w *world) flatten(t *rapid.T) {
	o := w.draw(t)
	if rapid.Bool().Draw(t, "into another directory") {
		dir := w.newDir(t)
		if _, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(o.dir), Dir: dir}); err != nil {
			t.Fatal(err)
		}
		w.add(dir, o.memory)
		return
	}
	if _, err := Flatten(context.Background(), FlattenOptions{Manifest: manifestOf(o.dir)}); err != nil {
		t.Fatal(err)
	}
}

// supersede merges the stack of one owner, and lets some of those who have it, or
// went on from it, have the result.
func (w *world) supersede(t *rapid.T) {
	dir := filepath.Join(w.root, "merged")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from := flatOf(t, w.draw(t).dir, dir, dir)
	for _, o := range w.owners {
		from.Manifest = manifestOf(o.dir)
		now, err := ReadManifest(from.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		if !now.BeginsWith(from.Was) || !rapid.Bool().Draw(t, "superseded") {
			continue
		}
		if _, err := Supersede(context.Background(), from); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func (w *world) prune(t *rapid.T) {
	if _, err := Prune(manifestOf(w.draw(t).dir)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) sums(t *rapid.T) {
	if _, err := WriteSums(context.Background(), manifestOf(w.draw(t).dir), nil); err != nil {
		t.Fatal(err)
	}
}

func (w *world) delete(t *rapid.T) {
	o := w.draw(t)
	if err := os.RemoveAll(o.dir); err != nil {
		t.Fatal(err)
	}
	w.owners = slices.DeleteFunc(w.owners, func(other *owner) bool { return other == o })
}

// check compares every image with its bytes, and the link count of every layer with
// the number of its names.
func (w *world) check(t *rapid.T) {
	names := make(map[string]uint64)
	links := make(map[string]uint64)
	for _, o := range w.owners {
		if !bytes.Equal(contents(t, o.dir), o.memory) {
			t.Fatalf("image %s differs from its model", o.dir)
		}
		assertNoTemporaries(t, o.dir)
		files, err := filepath.Glob(filepath.Join(o.dir, LayersDir, "*.mem"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			st := stat(t, f)
			names[filepath.Base(f)]++
			links[filepath.Base(f)] = st.Nlink
			if st.Mode&0o777 != 0o444 {
				t.Fatalf("layer %s has mode %o", f, st.Mode&0o777)
			}
		}
	}
	for f, n := range names {
		if links[f] != n {
			t.Fatalf("layer %s has %d names, want %d: one for each owner", f, links[f], n)
		}
	}
}

// TestOwnersAgainstModel captures, forks, flattens and deletes in any order and at
// any depth. Every image that is left must hold its own bytes, at every moment.
func TestOwnersAgainstModel(t *testing.T) {
	skipWithoutHoles(t)
	root := fastDir(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "case")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		w := &world{root: dir, pages: rapid.IntRange(1, 200).Draw(t, "pages")}
		w.boot(t)
		actions := []func(*rapid.T){w.boot, w.capture, w.capture, w.capture, w.fork, w.fork, w.flatten, w.supersede, w.prune, w.sums, w.delete}
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			if len(w.owners) == 0 {
				break
			}
			actions[rapid.IntRange(0, len(actions)-1).Draw(t, "action")](t)
			w.check(t)
		}
		for _, o := range w.owners {
			if err := mustVerify(t, o.dir).Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// fastDir returns a directory where fsync costs nothing, if there is one.
func fastDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "memimage-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	if ok, err := ReportsHoles(dir); err != nil || !ok {
		return t.TempDir()
	}
	return dir
}
