package memimage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// stat returns the status of a file, following no link.
func stat(t tb, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

// sparseFile makes a file of 64 pages of which three are data.
func sparseFile(t tb, path string) {
	t.Helper()
	writeMemory(t, path, 64, map[int][]byte{0: page(1), 31: page(2), 63: page(3)})
}

// assertSparseCopy checks that a copy has the bytes, no more blocks than its
// source, its own inode and no company.
func assertSparseCopy(t *testing.T, src, dst string, mode uint32) {
	t.Helper()
	want, err := os.ReadFile(src)
	check(t, err)
	got, err := os.ReadFile(dst)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from %s", dst, src)
	}
	from, to := stat(t, src), stat(t, dst)
	if to.Mode&0o777 != mode || to.Nlink != 1 {
		t.Errorf("%s has mode %o and %d names, want %o and 1", dst, to.Mode&0o777, to.Nlink, mode)
	}
	if from.Dev == to.Dev && from.Ino == to.Ino {
		t.Errorf("%s is the same file as %s", dst, src)
	}
	if to.Blocks > from.Blocks+int64(PageSize/512) {
		t.Errorf("%s takes %d blocks, its source %d: the copy is dense", dst, to.Blocks, from.Blocks)
	}
	assertNoTemporaries(t, filepath.Dir(dst))
}

func TestShareLinks(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	sparseFile(t, src)
	got, err := Share(context.Background(), src, dst)
	check(t, err)
	if got.Rung != HardLink || got.Reason != nil {
		t.Errorf("shared by %+v, want a hard link without a reason", got)
	}
	if st := stat(t, dst); st.Nlink != 2 || st.Ino != stat(t, src).Ino {
		t.Errorf("%s has %d names, want 2 of one file", dst, st.Nlink)
	}
}

func TestShareCopiesWhereLinkingIsImpossible(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EXDEV, unix.EMLINK, unix.EPERM} {
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		sparseFile(t, src)
		var got Shared
		err := supervised(t, refuse(errno, "linkat"), func() (err error) {
			got, err = Share(context.Background(), src, dst)
			return err
		})
		check(t, err)
		if got.Rung != Reflink && got.Rung != SparseCopy {
			t.Errorf("%v: shared by %q", errno, got.Rung)
		}
		if !errors.Is(got.Reason, errno) || !strings.Contains(got.Reason.Error(), src) || strings.Contains(got.Reason.Error(), "\n") {
			t.Errorf("%v: the reason is %v", errno, got.Reason)
		}
		assertSparseCopy(t, src, dst, 0o444)
	}
}

func TestShareReturnsEveryOtherError(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EACCES, unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.ENOENT} {
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		sparseFile(t, src)
		err := supervised(t, refuse(errno, "linkat"), func() error {
			_, err := Share(context.Background(), src, dst)
			return err
		})
		if !errors.Is(err, errno) {
			t.Errorf("linking fails with %v: error %v", errno, err)
		}
		if got := tree(t, dir); got != ".\na" {
			t.Errorf("%v: directory holds %s", errno, got)
		}
	}
}

func TestShareOntoAnotherFilesystem(t *testing.T) {
	other := otherFilesystem(t)
	src, dst := filepath.Join(t.TempDir(), "a"), filepath.Join(other, "b")
	sparseFile(t, src)
	for range 2 {
		got, err := Share(context.Background(), src, dst)
		check(t, err)
		if got.Rung != SparseCopy || !errors.Is(got.Reason, unix.EXDEV) {
			t.Errorf("shared by %+v, want a sparse copy for EXDEV", got)
		}
		assertSparseCopy(t, src, dst, 0o444)
		// And the other way.
		src, dst = dst, filepath.Join(filepath.Dir(src), "c")
	}
}

// otherFilesystem returns a directory on another filesystem than the usual ones.
func otherFilesystem(t *testing.T) string {
	t.Helper()
	const shm = "/dev/shm"
	var here, there unix.Stat_t
	check(t, unix.Stat(t.TempDir(), &here))
	if err := unix.Stat(shm, &there); err != nil || here.Dev == there.Dev {
		t.Skip("no second filesystem at /dev/shm; mount a tmpfs there")
	}
	dir, err := os.MkdirTemp(shm, "memimage-test")
	if err != nil {
		t.Skipf("%v; make /dev/shm writable", err)
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

func TestShareRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		src, dst string
		want     error
	}{
		"missing source":     {"none", "new", ErrMissing},
		"directory":          {"dir", "new", ErrNotRegular},
		"symbolic link":      {"link", "new", ErrNotRegular},
		"existing name":      {"file", "other", fs.ErrExist},
		"dangling link":      {"file", "dangling", fs.ErrExist},
		"missing directory":  {"file", "none/new", fs.ErrNotExist},
		"file for directory": {"file", "other/new", unix.ENOTDIR},
	} {
		dir := t.TempDir()
		sparseFile(t, filepath.Join(dir, "file"))
		sparseFile(t, filepath.Join(dir, "other"))
		check(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
		check(t, os.Symlink("file", filepath.Join(dir, "link")))
		check(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
		before := tree(t, dir)
		share := func(op string) {
			src, dst := filepath.Join(dir, c.src), filepath.Join(dir, c.dst)
			var err error
			if op == "share" {
				_, err = Share(context.Background(), src, dst)
			} else {
				_, err = Copy(context.Background(), src, dst, 0o600)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %s: error %v, want %v", name, op, err, c.want)
			}
			if c.want != ErrMissing && errors.Is(err, ErrMissing) {
				t.Errorf("%s, %s: error %v takes the source for missing", name, op, err)
			}
			if got := tree(t, dir); got != before {
				t.Errorf("%s, %s: directory holds\n%s\nbefore\n%s", name, op, got, before)
			}
		}
		share("share")
		share("copy")
	}
}

func TestUnreadableSourceIsNotMissing(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything; run the tests as an ordinary user too")
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "a")
	sparseFile(t, src)
	check(t, os.Chmod(src, 0))
	_, err := Share(context.Background(), src, filepath.Join(dir, "b"))
	if !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrMissing) {
		t.Errorf("error %v, want ErrUnreadable", err)
	}
}

func TestEmptyFileIsSharedAndCopied(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "a")
	check(t, os.WriteFile(src, nil, 0o600))
	_, err := Share(context.Background(), src, filepath.Join(dir, "b"))
	check(t, err)
	_, err = Copy(context.Background(), src, filepath.Join(dir, "c"), 0o640)
	check(t, err)
	if st := stat(t, filepath.Join(dir, "c")); st.Size != 0 || st.Mode&0o777 != 0o640 {
		t.Errorf("copy has %d bytes and mode %o", st.Size, st.Mode)
	}
}

// TestCopyRungs forces each way of copying in turn.
func TestCopyRungs(t *testing.T) {
	for name, refused := range map[string][]string{
		"as the filesystem can": nil,
		"copy_file_range":       {"ioctl"},
		"read and write":        {"ioctl", "copy_file_range"},
	} {
		for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOSYS} {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			sparseFile(t, src)
			var got Shared
			err := supervised(t, refuse(errno, refused...), func() (err error) {
				got, err = Copy(context.Background(), src, dst, 0o600)
				return err
			})
			check(t, err)
			if refused != nil && (got.Rung != SparseCopy || !errors.Is(got.Reason, errno)) {
				t.Errorf("%s: copied by %+v after %v", name, got, errno)
			}
			assertSparseCopy(t, src, dst, 0o600)
		}
	}
}

func TestCopyDoesNotTakeAnErrorForARefusal(t *testing.T) {
	for _, call := range []string{"ioctl", "copy_file_range"} {
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		sparseFile(t, src)
		met := false
		err := supervised(t, func(c faultCall) unix.Errno {
			if c.Name != call {
				return 0
			}
			met = true
			return unix.EIO
		}, func() error {
			_, err := Copy(context.Background(), src, dst, 0o600)
			return err
		})
		if met && !errors.Is(err, unix.EIO) {
			t.Errorf("%s fails with EIO: error %v", call, err)
		}
		if call == "ioctl" && !met {
			t.Error("no reflink was tried")
		}
	}
}

// TestCopyEqualsSource copies files of any size and holes.
func TestCopyEqualsSource(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "case")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		pages := rapid.IntRange(1, 600).Draw(t, "pages")
		writes, _ := genWrites(t, pages)
		writeMemory(t, src, pages, writes)
		if err := os.Truncate(src, rapid.Int64Range(0, int64(pages)*PageSize).Draw(t, "size")); err != nil {
			t.Fatal(err)
		}
		in, err := openSource(src)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := os.Create(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if rapid.Bool().Draw(t, "whole") {
			// What a filesystem without SEEK_DATA gets.
			info, err := in.Stat()
			if err != nil {
				t.Fatal(err)
			}
			c := copier{dst: out, src: in}
			if err := out.Truncate(info.Size()); err != nil {
				t.Fatal(err)
			}
			if err := c.copyNonZero(t.Context(), 0, info.Size()); err != nil {
				t.Fatal(err)
			}
		} else if err := copySparse(t.Context(), out, in); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("copy differs from its source")
		}
	})
}

func TestSharingFailsCleanlyAtEachStep(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.EPERM} {
		failEach(t, errno, func() (func() error, func(string, error)) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			sparseFile(t, src)
			work := func() error {
				if _, err := Share(context.Background(), src, dst); err != nil {
					return err
				}
				_, err := Copy(context.Background(), src, dst+"2", 0o600)
				return err
			}
			return work, func(call string, err error) {
				names := tree(t, dir)
				want := []string{".\na", ".\na\nb", ".\na\nb\nb2"}
				if err == nil {
					want = want[2:]
				} else {
					want = want[:2]
				}
				if i := slices.Index(want, names); i < 0 && !strings.HasPrefix(call, "unlinkat") {
					t.Errorf("directory holds %s", names)
				}
			}
		})
	}
}

// assertNoTemporaries checks that nobody left an unfinished file below dir.
func assertNoTemporaries(t tb, dir string) {
	t.Helper()
	for _, name := range strings.Split(tree(t, dir), "\n") {
		if strings.Contains(name, ".tmp-") {
			t.Fatalf("%s is left in %s", name, dir)
		}
	}
}

func TestCancelledCopyLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "a")
	sparseFile(t, src)
	for looks := 0; ; looks++ {
		ctx := &countdown{Context: context.Background(), left: looks, end: cancelled}
		_, err := Copy(ctx, src, filepath.Join(dir, "b"), 0o600)
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(".\na", tree(t, dir)); diff != "" {
			t.Fatalf("after %d looks (-want +got):\n%s", looks, diff)
		}
	}
}
