package memimage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// requireFineHoles fails where a zero page in a data extent of a diff may be one
// that the VMM never wrote. Taken as zero, it would hide the page below.
//
// A file whose extents are fine is enough, but for tmpfs, which has pages of
// several sizes in one file.
func (s *sealing) requireFineHoles(fine bool) error {
	if fine {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(s.file.Fd()), &st); err == nil && uint32(st.Type) != unix.TMPFS_MAGIC {
			return nil
		}
	}
	ok, err := ReportsHoles(filepath.Dir(s.o.Source))
	if err != nil {
		return err
	}
	if !ok {
		return &FileError{
			Path: s.o.Source, Reason: ErrCoarseHoles,
			Detail: "it cannot be told which zero pages the VMM wrote",
			Remedy: fmt.Sprintf("let diffs be written to a filesystem with blocks of %d bytes (ext4, XFS, btrfs, tmpfs without huge pages), or take a full capture", PageSize),
		}
	}
	return nil
}

// probeOffset is where the probe writes its page: one page behind a 2 MiB
// boundary, so that blocks and huge pages of any usual size would show.
const probeOffset = 2<<20 + PageSize

// ReportsHoles finds out whether the filesystem of dir reports holes page by page:
// it writes one page into the middle of an empty file and asks where the data is.
//
// Filesystems with larger blocks (XFS with large sectors, tmpfs with huge pages)
// and those without SEEK_HOLE report pages as data that nobody wrote. A diff that a
// VMM writes there cannot be sealed when it has zero pages ([ErrCoarseHoles]).
func ReportsHoles(dir string) (ok bool, err error) {
	f, err := os.CreateTemp(dir, ".holes.tmp-*")
	if err != nil {
		return false, fmt.Errorf("probe holes: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil {
		return false, fmt.Errorf("probe holes: %w", err)
	}
	const size = 2 * probeOffset
	if err := f.Truncate(size); err != nil {
		return false, fmt.Errorf("probe holes: %w", err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, PageSize), probeOffset); err != nil {
		return false, fmt.Errorf("probe holes: %w", err)
	}
	start, end, err := nextData(f, 0, size)
	return start == probeOffset && end == probeOffset+PageSize, err
}
