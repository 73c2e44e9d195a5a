package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// File is a file that is being filled under a temporary name, open for reading
// and writing, of mode 0600. It ends in one of Publish, Replace and Discard; each
// closes it, whether it fails or not.
type File struct {
	*os.File
	path string
	done bool
}

// Create opens a new file that is going to be path. The directory of path must
// exist.
func Create(path string) (*File, error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+tempMark+"*")
	if err != nil {
		return nil, fmt.Errorf("write %s: create temporary file: %w", path, err)
	}
	return &File{File: f, path: path}, nil
}

// Replace makes the file durable, gives it mode perm (not reduced by the umask)
// and lets it take the place of whatever is at path. After an error it is gone,
// with the exception that [WriteFile] describes.
func (f *File) Replace(perm fs.FileMode) error {
	return f.finish(perm, os.Rename, func() error { return nil })
}

// Publish is like Replace for a path that must be free: a file that is there
// stays, and the error is [fs.ErrExist]. After any error path is as it was.
func (f *File) Publish(perm fs.FileMode) error {
	return f.finish(perm, renameNew, func() error { return os.Remove(f.path) })
}

// finish gives the file its name with rename, and takes the name back with undo
// when it cannot be made durable.
func (f *File) finish(perm fs.FileMode, rename func(from, to string) error, undo func() error) error {
	if err := f.settle(perm); err != nil {
		return fmt.Errorf("write %s: %w", f.path, errors.Join(err, f.Discard()))
	}
	if err := rename(f.Name(), f.path); err != nil {
		return fmt.Errorf("write %s: %w", f.path, errors.Join(err, f.Discard()))
	}
	f.done = true
	if err := SyncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("write %s: %w", f.path, errors.Join(err, undo()))
	}
	return nil
}

// settle sets the mode, makes the content durable and closes the file.
func (f *File) settle(perm fs.FileMode) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// Discard removes the file under its temporary name. It does nothing once the
// file has been published or discarded, so that it can be deferred.
func (f *File) Discard() error {
	if f.done {
		return nil
	}
	f.done = true
	// Nobody is going to read what a failed close could have lost.
	_ = f.Close()
	return os.Remove(f.Name())
}

// renameNew renames a file to a name that must be free.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		if err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return nil
	}
	// Some network filesystems cannot do that. The owner of a directory is alone
	// in making names there, so that looking first is enough.
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}

// IsTemporary tells whether a file of this base name was left by a writer of this
// package that did not end.
func IsTemporary(name string) bool {
	return strings.HasPrefix(name, ".") && strings.Contains(name, tempMark)
}
