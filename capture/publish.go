package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Marks of names that are no captures; see the package's comment.
const (
	newMark   = ".new-"
	trashMark = ".trash-"
)

// draft is a directory that is being made, under the name that Sweep removes.
type draft struct {
	dir   string // .new-<name>
	final string // <name>
}

// makeDraft makes the directory that is going to be at path. Nothing may be there
// (fs.ErrExist), nor be in the making; the parent must exist.
func makeDraft(path string) (draft, error) {
	d := draft{dir: filepath.Join(filepath.Dir(path), newMark+filepath.Base(path)), final: path}
	if err := d.free(); err != nil {
		return draft{}, err
	}
	return d, os.Mkdir(d.dir, 0o700)
}

// free checks that nothing has the final name. Its owner is alone in making names
// beside it, so that looking is enough; a rename would take the place of an empty
// directory without a word.
func (d draft) free() error {
	if _, err := os.Lstat(d.final); err == nil {
		return &os.PathError{Op: "make", Path: d.final, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// publish gives the directory its name. Its content must be on disk. After an
// error the directory is a draft again.
func (d draft) publish() error {
	if err := d.free(); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(d.dir); err != nil {
		return err
	}
	if err := os.Rename(d.dir, d.final); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(d.final)); err != nil {
		return errors.Join(err, os.Rename(d.final, d.dir))
	}
	return nil
}

// discard removes the draft.
func (d draft) discard() error {
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("remove what is left of an attempt: %w", err)
	}
	return nil
}

// Remove removes the capture, snapshot or fork in dir, from one moment to the next
// for everybody who looks: it is renamed first and its files are removed then.
// Nobody who was made from it notices. After an error that is about the files it
// is gone nevertheless, and [Sweep] removes the rest.
//
// A directory that does not exist is fs.ErrNotExist.
func Remove(dir string) error {
	parent := filepath.Dir(dir)
	// A trash name of an earlier attempt may still be there, and cannot be
	// renamed over.
	trash, err := os.MkdirTemp(parent, trashMark+filepath.Base(dir)+"-*")
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if err := os.Rename(dir, filepath.Join(trash, "dir")); err != nil {
		return errors.Join(fmt.Errorf("remove %s: %w", dir, err), os.Remove(trash))
	}
	if err := errors.Join(atomicfile.SyncDir(parent), os.RemoveAll(trash)); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// Sweep removes from the directory parent what crashes have left there: whatever
// is unpublished, whatever is in the trash, and temporary files. It returns the
// names that it removed. It is for the start of a program, before anybody makes or
// removes anything below parent. A parent that does not exist is clean.
func Sweep(parent string) (removed []string, err error) {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, newMark) && !strings.HasPrefix(name, trashMark) && !atomicfile.IsTemporary(name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(parent, name)); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, name)
	}
	if len(removed) > 0 {
		errs = append(errs, atomicfile.SyncDir(parent))
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("sweep %s: %w", parent, err)
	}
	return removed, nil
}
