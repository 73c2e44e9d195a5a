package memimage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// overwrite writes into a file as a VMM does: in place, by its name.
func overwrite(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	check(t, err)
	_, err = f.WriteAt(page(99), 5*PageSize)
	check(t, err)
	check(t, f.Close())
}

func TestPrepareTargetProtectsOtherOwners(t *testing.T) {
	dir := t.TempDir()
	path, foreign := filepath.Join(dir, "mem"), filepath.Join(dir, "foreign")
	sparseFile(t, foreign)
	check(t, os.Link(foreign, path))
	before, err := os.ReadFile(foreign)
	check(t, err)
	status := stat(t, foreign)

	got, shared, err := PrepareTarget(context.Background(), path)
	check(t, err)
	if got != TargetReplaced || shared.Rung == "" || shared.Rung == HardLink {
		t.Errorf("target %q, copied by %q", got, shared.Rung)
	}
	assertSparseCopy(t, foreign, path, 0o600)
	overwrite(t, path)
	after, err := os.ReadFile(foreign)
	check(t, err)
	if !bytes.Equal(after, before) {
		t.Error("the other owner's file has changed")
	}
	if st := stat(t, foreign); st.Nlink != 1 || st.Ino != status.Ino || st.Mode != status.Mode || st.Mtim != status.Mtim {
		t.Errorf("the other owner's file is now %+v, was %+v", st, status)
	}
	if got, _, err := PrepareTarget(context.Background(), path); got != TargetOwned || err != nil {
		t.Errorf("second time: target %q, %v; want owned", got, err)
	}
}

// A capture must not write into a sealed layer, even when nobody else has it.
func TestPrepareTargetProtectsSealedLayers(t *testing.T) {
	dir := t.TempDir()
	m := mustSeal(t, dir, Manifest{}, 8, map[int][]byte{5: page(5)}).Manifest
	path, _ := layerPaths(dir, m.Layers[0])
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	got, _, err := PrepareTarget(context.Background(), path)
	check(t, err)
	if got != TargetReplaced {
		t.Errorf("target %q, want a replaced one", got)
	}
	overwrite(t, path)
	if got := readPage(t, img, 5); !bytes.Equal(got, page(5)) {
		t.Errorf("page 5 of the open image now begins with %d", got[0])
	}
}

func TestPrepareTargetLeavesFreeAndOwnedAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mem")
	got, _, err := PrepareTarget(context.Background(), path)
	if got != TargetFree || err != nil {
		t.Errorf("target %q, %v; want free", got, err)
	}
	if got := tree(t, dir); got != "." {
		t.Errorf("directory holds %s", got)
	}
	sparseFile(t, path)
	before := stat(t, path)
	got, _, err = PrepareTarget(context.Background(), path)
	if got != TargetOwned || err != nil {
		t.Errorf("target %q, %v; want owned", got, err)
	}
	if st := stat(t, path); st.Ino != before.Ino || st.Ctim != before.Ctim {
		t.Error("an owned file was touched")
	}
}

func TestPrepareTargetRefuses(t *testing.T) {
	dir := t.TempDir()
	sparseFile(t, filepath.Join(dir, "victim"))
	check(t, os.Symlink("victim", filepath.Join(dir, "link")))
	check(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	check(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	check(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	before := tree(t, dir)
	for name, want := range map[string]error{
		"link": ErrNotRegular, "dangling": ErrNotRegular, "dir": ErrNotRegular, "pipe": ErrNotRegular,
		"none/mem": fs.ErrNotExist, "victim/mem": unix.ENOTDIR,
	} {
		path := filepath.Join(dir, name)
		_, _, err := PrepareTarget(context.Background(), path)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %v with the path", name, err, want)
		}
	}
	if got := tree(t, dir); got != before {
		t.Errorf("directory holds\n%s\nbefore\n%s", got, before)
	}
}

func TestPrepareTargetFailsCleanlyAtEachStep(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		failEach(t, errno, func() (func() error, func(string, error)) {
			dir := t.TempDir()
			path, foreign := filepath.Join(dir, "mem"), filepath.Join(dir, "foreign")
			sparseFile(t, foreign)
			check(t, os.Link(foreign, path))
			before, err := os.ReadFile(foreign)
			check(t, err)
			work := func() error { _, _, err := PrepareTarget(context.Background(), path); return err }
			return work, func(call string, err error) {
				for _, name := range []string{path, foreign} {
					if got, rerr := os.ReadFile(name); rerr != nil || !bytes.Equal(got, before) {
						t.Errorf("%s: %v, bytes equal %v", name, rerr, bytes.Equal(got, before))
					}
				}
				if err == nil && stat(t, path).Nlink != 1 {
					t.Error("no error, and the target is still shared")
				}
				assertNoTemporaries(t, dir)
			}
		})
	}
}
