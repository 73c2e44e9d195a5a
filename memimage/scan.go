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

// scanChunk is how much of a memory file is read at a time: large enough to make
// system calls cheap, small enough to be compared while it is in the CPU's cache.
const scanChunk = 1 << 20

// scanned is what scan found.
type scanned struct {
	index *Index
	// zeroData is the number of zero pages that the filesystem holds as data.
	zeroData uint64
	// fine tells that an extent begins or ends between two pages of a pair: then
	// the filesystem's blocks are no larger than a page.
	fine bool
}

// scan makes the page index of a memory file of size bytes from its extents and
// its content. It only reads.
func scan(ctx context.Context, f *os.File, size int64, id LayerID, kind Kind) (scanned, error) {
	s := scanner{f: f, b: newIndexBuilder(id), hole: Zero, buf: make([]byte, scanChunk), zero: make([]byte, PageSize)}
	if kind == Diff {
		s.hole = Absent
	}
	fine := false
	for at := int64(0); at < size; {
		start, end, err := nextData(f, at, size)
		if err != nil {
			return scanned{}, err
		}
		// The end of the file says nothing.
		fine = fine || start < size && start/PageSize%2 == 1 || end < size && end/PageSize%2 == 1
		s.b.add(s.hole, uint64(start-at)/PageSize)
		if err := s.data(ctx, start, end); err != nil {
			return scanned{}, err
		}
		at = end
	}
	return scanned{index: s.b.finish(), zeroData: s.zeroData, fine: fine}, nil
}

// nextData returns the first extent of data at or behind offset at, widened to
// whole pages; a page that is partly data is data. It returns size, size when only
// a hole is left.
func nextData(f *os.File, at, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("seek data in %s at %d: %w", f.Name(), at, err)
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("seek hole in %s at %d: %w", f.Name(), start, err)
	}
	start, end = wholePages(start, end)
	return start, min(end, size), nil
}

// wholePages widens a stretch of bytes to pages.
func wholePages(start, end int64) (int64, int64) {
	return start / PageSize * PageSize, (end + PageSize - 1) / PageSize * PageSize
}

// scanner collects the index of one file.
type scanner struct {
	f        *os.File
	b        *indexBuilder
	hole     State
	zeroData uint64
	buf      []byte
	zero     []byte
}

// data looks at each page from start to end.
func (s *scanner) data(ctx context.Context, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := s.buf[:min(int64(len(s.buf)), end-start)]
		if n, err := s.f.ReadAt(chunk, start); err != nil {
			if errors.Is(err, io.EOF) {
				return &FileError{
					Path: s.f.Name(), Reason: ErrTruncated,
					Detail: fmt.Sprintf("it ended at byte %d while it was sealed", start+int64(n)),
					Remedy: "seal a memory file only after the VMM has finished writing it",
				}
			}
			return fmt.Errorf("read %s at %d: %w", s.f.Name(), start, err)
		}
		for p := 0; p < len(chunk); p += PageSize {
			// Equal leaves at the first difference, and compares whole vectors.
			if bytes.Equal(chunk[p:p+PageSize], s.zero) {
				s.b.add(Zero, 1)
				s.zeroData++
			} else {
				s.b.add(Data, 1)
			}
		}
		start += int64(len(chunk))
	}
	return nil
}

// punch turns the zero runs of a memory file into holes. The content stays what it
// was, so that it may stop anywhere. A filesystem that has no such operation
// keeps the zeros on disk, and supported is false.
func punch(ctx context.Context, f *os.File, ix *Index) (supported bool, err error) {
	for r := range ix.Runs() {
		if r.State != Zero {
			continue
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		err := fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(r.Page*PageSize), int64(r.Pages*PageSize))
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("punch hole of %d pages at page %d into %s: %w", r.Pages, r.Page, f.Name(), err)
		}
	}
	return true, nil
}

// fallocate repeats the call when a signal interrupts it.
func fallocate(f *os.File, mode uint32, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), mode, off, n)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
