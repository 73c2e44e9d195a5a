package memimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Target says what PrepareTarget found at a path.
type Target string

const (
	// TargetFree: nothing is at the path.
	TargetFree Target = "free"
	// TargetOwned: the file at the path is this owner's alone.
	TargetOwned Target = "owned"
	// TargetReplaced: the file had other names, or was sealed; a private copy of
	// it is at the path now.
	TargetReplaced Target = "replaced"
)

// PrepareTarget makes it safe to let a VMM write a memory file to path, which it
// opens by name and writes in place. Afterwards either nothing is at path, or a
// regular file with this one name.
//
// A file that has further names belongs to further owners, and one that nobody may
// write (no write bit in its mode) is sealed: it may be mapped by a guest even
// when it has one name only. Both are replaced by a private copy, made by the
// ladder of [Copy] and renamed over path; the other names and those who have the
// file open keep the old one, untouched. A symbolic link, directory or device is
// an error of reason [ErrNotRegular]; no link is followed.
//
// The caller must own the directory: nobody else may make names in it between
// PrepareTarget and the VMM's open.
func PrepareTarget(ctx context.Context, path string) (Target, Shared, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A directory that is missing would be found only by the VMM.
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return "", Shared{}, fmt.Errorf("prepare %s for writing: %w", path, err)
		}
		return TargetFree, Shared{}, nil
	case err != nil:
		return "", Shared{}, openError(path, "", err)
	case !info.Mode().IsRegular():
		return "", Shared{}, notRegular(path, nil)
	}
	if alone(info) {
		return TargetOwned, Shared{}, nil
	}
	f, err := openSource(path)
	if err != nil {
		return "", Shared{}, err
	}
	defer f.Close()
	shared, err := copyTo(ctx, f, path, func(out *atomicfile.File) error { return out.Replace(0o600) })
	if err != nil {
		return "", Shared{}, fmt.Errorf("prepare %s for writing: %w", path, err)
	}
	return TargetReplaced, shared, nil
}

// alone tells whether a file has one name and is not sealed.
func alone(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 1 && info.Mode().Perm()&(unix.S_IWUSR|unix.S_IWGRP|unix.S_IWOTH) != 0
}
