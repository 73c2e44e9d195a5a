// Package atomicfile makes files so that a reader, and whoever comes after a
// crash, finds the whole old content or the whole new one.
//
// A file is filled under a temporary name in the directory of its path
// ([Create]), and takes its path by a rename when it is complete and on disk. A
// crash leaves the temporary name; [IsTemporary] tells a sweep which those are.
//
// The package takes no locks and has no state; it owns a [File] until that is
// published or discarded. Two writers of one path do not tear it; the later
// rename wins.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	f, err := Create(path)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), f.Discard())
	}
	return f.Replace(perm)
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
