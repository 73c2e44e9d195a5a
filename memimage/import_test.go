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
)

// foreignSnapshot makes the files of a snapshot from elsewhere: a dense memory file,
// two diffs and a VM state. It returns the memory that they add up to.
func foreignSnapshot(t *testing.T, dir string) (ImportOptions, []byte) {
	t.Helper()
	skipWithoutHoles(t)
	o := ImportOptions{
		Memory: filepath.Join(dir, "mem"), VMState: filepath.Join(dir, "state"),
		Diffs: []string{filepath.Join(dir, "diff1"), filepath.Join(dir, "diff2")},
	}
	memory := make([]byte, 64*PageSize)
	for p := range 40 {
		if p%3 > 0 {
			copy(memory[p*PageSize:], page(byte(p)))
		}
	}
	check(t, os.WriteFile(o.Memory, memory, 0o600))
	check(t, os.WriteFile(o.VMState, []byte("state of the devices"), 0o600))
	for i, diff := range []map[int][]byte{{1: page(0), 7: page(71), 63: page(72)}, {7: page(0), 8: page(81)}} {
		writeMemory(t, o.Diffs[i], 64, diff)
		for p, data := range diff {
			copy(memory[p*PageSize:], data)
		}
	}
	return o, memory
}

func TestImportAndExport(t *testing.T) {
	dirs := map[string]string{"same filesystem": t.TempDir(), "another": ""}
	for name, from := range dirs {
		t.Run(name, func(t *testing.T) {
			if from == "" {
				from = otherFilesystem(t)
			}
			o, want := foreignSnapshot(t, from)
			o.Dir = t.TempDir()
			// A foreign name of the memory file: it is not this program's to move.
			check(t, os.Link(o.Memory, o.Memory+".foreign"))
			before := stat(t, o.Memory)
			m, err := Import(context.Background(), o)
			check(t, err)
			if len(m.Layers) != 3 {
				t.Errorf("imported %d layers, want 3", len(m.Layers))
			}
			if !bytes.Equal(contents(t, o.Dir), want) {
				t.Error("the image differs from its files")
			}
			if st := stat(t, o.Memory); st.Ino != before.Ino || st.Mtim != before.Mtim || st.Ctim != before.Ctim || st.Nlink != 2 {
				t.Error("the imported file was touched")
			}
			mem, _ := layerPaths(o.Dir, m.Layers[0])
			if st := stat(t, mem); st.Blocks > 26*PageSize/512+16 || st.Mode&0o777 != 0o444 {
				t.Errorf("layer takes %d blocks for 26 pages of data, mode %o", st.Blocks, st.Mode&0o777)
			}
			state, err := os.ReadFile(filepath.Join(o.Dir, VMStateName))
			if err != nil || string(state) != "state of the devices" {
				t.Errorf("VM state %q, %v", state, err)
			}
			check(t, mustVerify(t, o.Dir).Err())

			flat := filepath.Join(t.TempDir(), "flat")
			check(t, Export(context.Background(), manifestOf(o.Dir), flat, nil))
			got, err := os.ReadFile(flat)
			check(t, err)
			if st := stat(t, flat); !bytes.Equal(got, want) || st.Mode&0o777 != 0o600 || st.Blocks > 28*PageSize/512+16 {
				t.Errorf("exported file: bytes equal %v, mode %o, %d blocks", bytes.Equal(got, want), st.Mode&0o777, st.Blocks)
			}
			if err := Export(context.Background(), manifestOf(o.Dir), flat, nil); !errors.Is(err, os.ErrExist) {
				t.Errorf("export over a file: %v, want fs.ErrExist", err)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, o *ImportOptions)
		want  error
	}{
		"missing memory":     {func(t *testing.T, o *ImportOptions) { check(t, os.Remove(o.Memory)) }, ErrMissing},
		"empty memory":       {func(t *testing.T, o *ImportOptions) { check(t, os.Truncate(o.Memory, 0)) }, ErrEmpty},
		"odd memory":         {func(t *testing.T, o *ImportOptions) { check(t, os.Truncate(o.Memory, 4097)) }, ErrMismatch},
		"huge sparse memory": {func(t *testing.T, o *ImportOptions) { o.Memory = hugeFile(t) }, ErrMismatch},
		"shorter diff":       {func(t *testing.T, o *ImportOptions) { check(t, os.Truncate(o.Diffs[1], 32*PageSize)) }, ErrMismatch},
		"dense diff":         {func(t *testing.T, o *ImportOptions) { makeDense(t, o.Diffs[0]) }, ErrCoarseHoles},
		"missing diff":       {func(t *testing.T, o *ImportOptions) { check(t, os.Remove(o.Diffs[1])) }, ErrMissing},
		"diff is a link": {func(t *testing.T, o *ImportOptions) {
			check(t, os.Symlink(o.Diffs[1], o.Diffs[1]+"l"))
			o.Diffs[1] += "l"
		}, ErrNotRegular},
		"empty state":      {func(t *testing.T, o *ImportOptions) { check(t, os.Truncate(o.VMState, 0)) }, ErrMismatch},
		"memory as state":  {func(t *testing.T, o *ImportOptions) { check(t, os.Truncate(o.VMState, 1<<30)) }, ErrMismatch},
		"missing state":    {func(t *testing.T, o *ImportOptions) { check(t, os.Remove(o.VMState)) }, ErrMissing},
		"an image already": {func(t *testing.T, o *ImportOptions) { o.Dir, _ = stackDir(t) }, ErrExists},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := foreignSnapshot(t, t.TempDir())
			o.Dir = t.TempDir()
			c.spoil(t, &o)
			before, files := tree(t, o.Dir), openFiles(t)
			_, err := Import(context.Background(), o)
			var typed *FileError
			if !errors.Is(err, c.want) || !errors.As(err, &typed) {
				t.Errorf("error %v, want a *FileError of %v", err, c.want)
			}
			if got := tree(t, o.Dir); got != before {
				t.Errorf("a failed import left\n%s", got)
			}
			if got := openFiles(t); got != files {
				t.Errorf("%d files are open, %d were before", got, files)
			}
		})
	}
}

// hugeFile makes a file larger than any guest. Ext4 has none of that size.
func hugeFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(otherFilesystem(t), "mem")
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, os.Truncate(path, MaxPages*PageSize+PageSize))
	return path
}

// makeDense fills the holes of a file with zero bytes, as a careless copy does.
func makeDense(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, data, 0o600))
}

func TestImportNeedsOnlyToRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everything; run the tests as an ordinary user too")
	}
	from := t.TempDir()
	o, want := foreignSnapshot(t, from)
	o.Dir = t.TempDir()
	for _, name := range append([]string{o.Memory, o.VMState}, o.Diffs...) {
		check(t, os.Chmod(name, 0o400))
	}
	check(t, os.Chmod(from, 0o500))
	t.Cleanup(func() { check(t, os.Chmod(from, 0o700)) })
	_, err := Import(context.Background(), o)
	check(t, err)
	if !bytes.Equal(contents(t, o.Dir), want) {
		t.Error("the image differs from its files")
	}
}

func TestImportFailsCleanlyAtEachStep(t *testing.T) {
	o, want := foreignSnapshot(t, t.TempDir())
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		failEach(t, errno, func() (func() error, func(string, error)) {
			o := o
			o.Dir = t.TempDir()
			work := func() error { _, err := Import(context.Background(), o); return err }
			return work, func(call string, err error) {
				if err == nil {
					if !bytes.Equal(contents(t, o.Dir), want) {
						t.Error("the image differs from its files")
					}
				} else if got := tree(t, o.Dir); got != "." {
					t.Errorf("a failed import left\n%s", got)
				}
			}
		})
	}
}

func TestSealFailsCleanlyAtEachStep(t *testing.T) {
	for _, keep := range []bool{false, true} {
		for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
			failEach(t, errno, func() (func() error, func(string, error)) {
				dir := t.TempDir()
				raw := filepath.Join(dir, "raw")
				writeMemory(t, raw, 8, crashContent())
				o := SealOptions{Source: raw, Dir: dir, Kind: Full, Keep: keep}
				work := func() error { _, err := Seal(context.Background(), o); return err }
				return work, func(call string, err error) {
					if err != nil {
						assertRaw(t, raw, dir, crashContent(), 8)
						return
					}
					_, serr := os.Stat(raw)
					if keep != (serr == nil) {
						t.Errorf("source after a seal with keep %v: %v", keep, serr)
					}
					mustClose(t, mustOpen(t, dir))
				}
			})
		}
	}
}

func TestKeptDiffIsSealedFromAnotherFilesystem(t *testing.T) {
	other := otherFilesystem(t)
	base, dir := t.TempDir(), t.TempDir()
	full := mustSeal(t, base, Manifest{}, 8, map[int][]byte{2: page(2), 3: page(3)}).Manifest
	linkLayers(t, base, dir, full)
	raw := filepath.Join(other, "raw")
	writeMemory(t, raw, 8, map[int][]byte{2: page(0), 5: page(5)})
	before := stat(t, raw)
	out, err := Seal(context.Background(), SealOptions{Source: raw, Dir: dir, Kind: Diff, Base: full, Keep: true})
	check(t, err)
	if want := (Counts{Data: 1, Zero: 1, Absent: 6}); out.Pages != want {
		t.Errorf("pages %+v, want %+v", out.Pages, want)
	}
	want := bytes.Join([][]byte{page(0), page(0), page(0), page(3), page(0), page(5), page(0), page(0)}, nil)
	if !bytes.Equal(contents(t, dir), want) {
		t.Error("the image differs from the model")
	}
	if st := stat(t, raw); st.Ino != before.Ino || st.Ctim != before.Ctim {
		t.Error("the kept source was touched")
	}
	if names := tree(t, other); strings.Contains(names, "tmp") {
		t.Errorf("left beside the source: %s", names)
	}
}
