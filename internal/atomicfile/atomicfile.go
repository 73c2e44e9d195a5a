// Package atomicfile replaces small files so that a reader, and whoever comes
// after a crash, finds the whole old content or the whole new one.
//
// The package owns no resources beyond a call, takes no locks and has no state.
// Two writers of one path do not tear it; the later rename wins.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// tempMark is part of every temporary name, so that a sweep can tell a leftover
// from a file that somebody wants.
const tempMark = ".tmp-"

// WriteFile makes path a regular file with content data and mode perm (not
// reduced by the umask). The bytes are on disk before the name is, and the name
// is on disk before WriteFile returns. The directory of path must exist.
//
// An error names the path. After an error path holds its old content, with one
// exception: when only the last step, the fsync of the directory, failed, path
// already holds the new content and a crash may still bring back the old one.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+tempMark+"*")
	if err != nil {
		return fmt.Errorf("write %s: create temporary file: %w", path, err)
	}
	if err := fill(f, data, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// fill writes data into f, makes it durable and closes f in every case.
func fill(f *os.File, data []byte, perm fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// SyncDir makes the names in directory dir durable. A filesystem that has no
// such operation (EINVAL: some network and FUSE filesystems) is not an error:
// there is nothing that a caller could do about it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
