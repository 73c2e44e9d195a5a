package capture

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/loopmount"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage"
)

// sealedFiles is how many sealed files a fork of source's capture gets: two layers and
// their indexes, the VM state, the record, two disks, and the read-only disk again.
const sealedFiles = 9

// forkWithout forks a capture where linking fails with errno, or works if that is 0.
func forkWithout(t *testing.T, errno unix.Errno, c Capture, dir string) Linked {
	t.Helper()
	decide := func(call syscallfault.Call) syscallfault.Errno {
		if call.Name == "linkat" {
			return errno
		}
		return 0
	}
	var out Linked
	var err error
	switch serr := syscallfault.Run(decide, func() { out, err = Fork(t.Context(), c, ForkOptions{Dir: dir}) }); {
	case errors.Is(serr, syscallfault.ErrUnsupported):
		t.Skip(serr)
	case serr != nil || err != nil:
		t.Fatal(serr, err)
	}
	return out
}

// outlive makes sure that a fork does without its source: it is right when that is
// gone, is sparse, writes, and parks on its own base.
func (w want) outlive(t *testing.T, f Capture, source string) {
	t.Helper()
	if err := os.RemoveAll(source); err != nil {
		t.Fatal(err)
	}
	w.verify(t, f.Dir)
	m, err := memimage.ReadManifest(f.ManifestPath())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		info, err := os.Stat(filepath.Join(f.Dir, l.File))
		if err != nil {
			t.Fatal(err)
		}
		// The layers have one page and three at most.
		if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 > fakeMemory/4 || st.Mode&0o222 != 0 || st.Nlink != 1 {
			t.Errorf("layer %s takes %d bytes, has mode %o and %d names", l.ID, st.Blocks*512, st.Mode, st.Nlink)
		}
	}
	instance := filepath.Dir(filepath.Dir(f.Dir))
	v := restoreFake(t, instance, f)
	v.setDisk(t, "data", "of the fork")
	v.set(9, 9)
	r := v.request(Restored(f, true))
	r.Disks = twoDisks()
	now := v.now(t, r.Disks)
	next := mustTake(t, r)
	if next.Capture.Record.Kind != memimage.Diff {
		t.Errorf("the fork's capture is %s: %s", next.Capture.Record.Kind, next.Why)
	}
	now.verify(t, next.Capture.Dir)
	w.verify(t, f.Dir)
}

// TestForkWhereLinkingIsImpossible: the limit of links, a kernel that forbids it, and
// another filesystem make a fork a copy, which says why.
func TestForkWhereLinkingIsImpossible(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EMLINK, unix.EPERM, unix.EXDEV} {
		v, _, c, w := source(t)
		f := forkWithout(t, errno, c, filepath.Join(memoryDir(t), "fork"))
		if n := f.Sharing.Rungs[memimage.SparseCopy] + f.Sharing.Rungs[memimage.Reflink]; n != sealedFiles || len(f.Sharing.Reasons) != sealedFiles {
			t.Errorf("%v: sharing %+v", errno, f.Sharing)
		}
		for _, reason := range f.Sharing.Reasons {
			if !errors.Is(reason, errno) || !strings.Contains(reason.Error(), c.Dir) && !strings.Contains(reason.Error(), "fork") {
				t.Errorf("%v: the reason is %v", errno, reason)
			}
		}
		w.outlive(t, f.Capture, v.dir)
	}
}

// TestOtherErrorsOfLinkingFailTheFork: only what is about links themselves has a copy
// stand in.
func TestOtherErrorsOfLinkingFailTheFork(t *testing.T) {
	_, _, c, w := source(t)
	for _, errno := range []unix.Errno{unix.EACCES, unix.EIO, unix.ENOSPC, unix.EROFS} {
		parent := memoryDir(t)
		var err error
		decide := func(call syscallfault.Call) syscallfault.Errno {
			if call.Name == "linkat" {
				return errno
			}
			return 0
		}
		serr := syscallfault.Run(decide, func() { _, err = Fork(t.Context(), c, ForkOptions{Dir: filepath.Join(parent, "fork")}) })
		if errors.Is(serr, syscallfault.ErrUnsupported) {
			t.Skip(serr)
		}
		if !errors.Is(err, errno) || len(names(t, parent)) != 0 {
			t.Errorf("%v: error %v, left %v", errno, err, names(t, parent))
		}
	}
	w.verify(t, c.Dir)
}

// TestForkOnRealFilesystems forks on the filesystems that hosts have, from there to
// another one, and with links refused: reflinks where there are any, else sparse copies.
func TestForkOnRealFilesystems(t *testing.T) {
	for _, name := range loopmount.Names() {
		t.Run(name, func(t *testing.T) {
			rung := memimage.SparseCopy
			if loopmount.Reflinks(name) {
				rung = memimage.Reflink
			}
			mount := loopmount.Mount(t, name)
			v, _, elsewhere, w := source(t)
			// The capture on the mount is a fork already, from another filesystem.
			here, err := Fork(t.Context(), elsewhere, ForkOptions{Dir: filepath.Join(mount, "source")})
			if err != nil {
				t.Fatal(err)
			}
			if here.Sharing.Rungs[memimage.SparseCopy] != sealedFiles-1 || !errors.Is(here.Sharing.Reasons[0], unix.EXDEV) {
				t.Errorf("from another filesystem: %+v", here.Sharing)
			}
			if here.Sharing.Copies[rung] != 1 {
				t.Errorf("its disk: %v", here.Sharing.Copies)
			}
			linked, err := Fork(t.Context(), here.Capture, ForkOptions{Dir: filepath.Join(mount, "linked")})
			if err != nil {
				t.Fatal(err)
			}
			if linked.Sharing.Rungs[memimage.HardLink] != sealedFiles || len(linked.Sharing.Reasons) != 0 || linked.Sharing.Copies[rung] != 1 {
				t.Errorf("on one filesystem: %+v", linked.Sharing)
			}
			copied := forkWithout(t, unix.EMLINK, here.Capture, filepath.Join(mount, "copied"))
			if copied.Sharing.Rungs[rung] != sealedFiles || !errors.Is(copied.Sharing.Reasons[0], unix.EMLINK) || copied.Sharing.Copies[rung] != 1 {
				t.Errorf("without links: %+v", copied.Sharing)
			}
			if err := Remove(v.dir); err != nil {
				t.Fatal(err)
			}
			w.verify(t, linked.Capture.Dir)
			if err := Remove(filepath.Join(mount, "linked")); err != nil {
				t.Fatal(err)
			}
			w.outlive(t, copied.Capture, filepath.Join(mount, "source"))
		})
	}
}
