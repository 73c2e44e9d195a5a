package memimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Rung says how a file came to its second name.
type Rung string

// The rungs, cheapest first. There is no dense copy.
const (
	// HardLink: both names are one file.
	HardLink Rung = "hard_link"
	// Reflink: two files share their blocks until one is written (FICLONE: btrfs,
	// XFS, bcachefs). They do not share pages of the kernel's page cache.
	Reflink Rung = "reflink"
	// SparseCopy: the data was copied, holes stayed holes.
	SparseCopy Rung = "sparse_copy"
)

// Shared says how a file was shared or copied.
type Shared struct {
	// Rung is the one that worked.
	Rung Rung
	// Reason says why the rungs above it did not, naming the source: the other name
	// is often a temporary one. It is nil on the first rung. It is no failure, but a
	// caller who counts on forks that cost nothing should log it. errors.Is finds the
	// errno: [syscall.EXDEV], [syscall.EMLINK] or [syscall.EPERM] for a hard link.
	Reason error
}

// Copy makes dst a private copy of the regular file src: a reflink, and where
// there is none a sparse copy. The copy has mode perm (not reduced by the umask)
// and is on disk when Copy returns. Nothing may be at dst ([fs.ErrExist]); after an
// error nothing is.
//
// A writable disk of a fork is made this way. A source that is missing gives a
// *FileError of reason [ErrMissing], and only such a one.
func Copy(ctx context.Context, src, dst string, perm fs.FileMode) (Shared, error) {
	f, err := openSource(src)
	if err != nil {
		return Shared{}, err
	}
	defer f.Close()
	return copyTo(ctx, f, dst, func(out *atomicfile.File) error { return out.Publish(perm) })
}

// CopyUnsynced is like [Copy], but neither the copy nor its name is on disk when it
// returns: what the copy ladder does takes a moment, an fsync as long as the disk
// likes. It is for a directory that is not published yet, and for a moment in which
// somebody waits; the caller has to fsync both before the directory is published.
func CopyUnsynced(ctx context.Context, src, dst string, perm fs.FileMode) (Shared, error) {
	f, err := openSource(src)
	if err != nil {
		return Shared{}, err
	}
	defer f.Close()
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Shared{}, err
	}
	shared, err := climb(ctx, out, f)
	if err == nil {
		err = out.Chmod(perm)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return Shared{}, errors.Join(fmt.Errorf("copy %s to %s: %w", src, dst, err), os.Remove(dst))
	}
	return shared, nil
}

// openSource opens a regular file, empty or not, for reading.
func openSource(path string) (*os.File, error) {
	f, _, err := openRegular(path, os.O_RDONLY, "give the path of an existing file")
	if errors.Is(err, ErrEmpty) {
		if f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0); err != nil {
			return nil, openError(path, "", err)
		}
	}
	return f, err
}

// copyTo fills a new file from src and lets publish give it the name dst.
func copyTo(ctx context.Context, src *os.File, dst string, publish func(*atomicfile.File) error) (Shared, error) {
	out, err := atomicfile.Create(dst)
	if err != nil {
		return Shared{}, err
	}
	shared, err := climb(ctx, out.File, src)
	if err != nil {
		return Shared{}, errors.Join(fmt.Errorf("copy %s to %s: %w", src.Name(), dst, err), out.Discard())
	}
	if err := publish(out); err != nil {
		return Shared{}, err
	}
	return shared, nil
}

// climb fills the empty file dst with the content of src, by the first rung of the
// copy ladder that holds.
func climb(ctx context.Context, dst, src *os.File) (Shared, error) {
	if err := ctx.Err(); err != nil {
		return Shared{}, err
	}
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err == nil {
		return Shared{Rung: Reflink}, nil
	}
	if !refusesCopy(err) {
		return Shared{}, fmt.Errorf("reflink: %w", err)
	}
	reason := fmt.Errorf("reflink %s: %w", src.Name(), err)
	return Shared{Rung: SparseCopy, Reason: reason}, copySparse(ctx, dst, src)
}

// copySparse copies the data of src and makes its holes again.
func copySparse(ctx context.Context, dst, src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := dst.Truncate(size); err != nil {
		return err
	}
	extents, data, err := dataExtents(src, size)
	if err != nil {
		return err
	}
	c := copier{dst: dst, src: src}
	copy := c.copy
	// One extent from end to end, and fewer blocks than that: the filesystem does
	// not say where its holes are. Its word would make the copy dense.
	if st, ok := info.Sys().(*syscall.Stat_t); ok && len(extents) == 1 && data >= size && data > st.Blocks*512+PageSize {
		copy = c.copyNonZero
	}
	for _, e := range extents {
		if err := copy(ctx, e[0], e[1]-e[0]); err != nil {
			return err
		}
	}
	return nil
}

// dataExtents returns the first byte and the end of each data extent of a file,
// widened to whole pages, and their sum.
func dataExtents(f *os.File, size int64) (extents [][2]int64, data int64, err error) {
	for at := int64(0); at < size; {
		start, end, err := nextData(f, at, size)
		if err != nil {
			return nil, 0, err
		}
		if start < end {
			extents = append(extents, [2]int64{start, end})
			data += end - start
		}
		at = end
	}
	return extents, data, nil
}
