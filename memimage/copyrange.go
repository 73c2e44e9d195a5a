package memimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is how many bytes one copy_file_range may move: so few that a context
// that ends is soon noticed, so many that the calls do not count.
const copyChunk = 64 << 20

// copier copies stretches between two open files. It begins with copy_file_range,
// which shares the blocks where the filesystem can and else copies inside the
// kernel, and goes over to reading and writing when the kernel refuses.
type copier struct {
	dst, src *os.File
	// done is called after each piece with its bytes. It may be nil.
	done func(n int64)

	refused bool
	buf     []byte
}

// copy copies n bytes at offset off of src to the same offset of dst. A source
// that ends before is an error of reason [ErrTruncated].
func (c *copier) copy(ctx context.Context, off, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		moved, err := c.step(off, n)
		if err != nil {
			return err
		}
		off, n = off+moved, n-moved
		if c.done != nil {
			c.done(moved)
		}
	}
	return nil
}

// step copies some of n > 0 bytes.
func (c *copier) step(off, n int64) (int64, error) {
	if c.refused {
		return c.readWrite(off, n)
	}
	from, to := off, off
	moved, err := unix.CopyFileRange(int(c.src.Fd()), &from, int(c.dst.Fd()), &to, int(min(n, copyChunk)), 0)
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, nil
	case refusesCopy(err), err == nil && moved == 0:
		// Some filesystems say 0 where they mean "not this way"; reading finds out
		// whether the file really ends here.
		c.refused = true
		return c.readWrite(off, n)
	case err != nil:
		return 0, fmt.Errorf("copy %d bytes at %d of %s to %s: %w", n, off, c.src.Name(), c.dst.Name(), err)
	}
	return int64(moved), nil
}

// readWrite copies at most one buffer through user space.
func (c *copier) readWrite(off, n int64) (int64, error) {
	if c.buf == nil {
		c.buf = make([]byte, scanChunk)
	}
	part := c.buf[:min(n, int64(len(c.buf)))]
	if err := readFull(c.src, part, off); err != nil {
		return 0, err
	}
	if _, err := c.dst.WriteAt(part, off); err != nil {
		return 0, fmt.Errorf("write %s: %w", c.dst.Name(), err)
	}
	return int64(len(part)), nil
}

// copyNonZero is like copy but leaves pages of zero bytes as the holes that they
// are in dst. It needs whole pages, but for the file's last.
func (c *copier) copyNonZero(ctx context.Context, off, n int64) error {
	buf, zero := make([]byte, scanChunk), make([]byte, PageSize)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(n, int64(len(buf)))]
		if err := readFull(c.src, part, off); err != nil {
			return err
		}
		for p := 0; p < len(part); p += PageSize {
			page := part[p:min(p+PageSize, len(part))]
			if bytes.Equal(page, zero[:len(page)]) {
				continue
			}
			if _, err := c.dst.WriteAt(page, off+int64(p)); err != nil {
				return fmt.Errorf("write %s: %w", c.dst.Name(), err)
			}
		}
		off, n = off+int64(len(part)), n-int64(len(part))
		if c.done != nil {
			c.done(int64(len(part)))
		}
	}
	return nil
}

// readFull reads len(p) bytes at off of a file that has them.
func readFull(f *os.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return &FileError{
			Path: f.Name(), Reason: ErrTruncated, Remedy: "copy a file only after its writer has finished",
			Detail: fmt.Sprintf("it ended at byte %d while it was copied", off+int64(n)),
		}
	}
	return &FileError{Path: f.Name(), Reason: ErrUnreadable, Remedy: remedyAccess, Err: err}
}

// refusesCopy tells whether the kernel will not do copy_file_range or FICLONE
// between these files, whatever the offsets: another filesystem or type of it, no
// such operation, forbidden by a filter. Where the file itself is at fault,
// reading and writing it says so again.
func refusesCopy(err error) bool {
	for _, errno := range []error{unix.EXDEV, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EINVAL, unix.EPERM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
