package memimage

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Layer is one open layer of an image. It is immutable and lives as long as its
// image: whoever uses it must hold the image open.
type Layer struct {
	entry  LayerEntry
	path   string
	file   *os.File
	class  FilesystemClass
	counts Counts
}

// openLayer opens a layer of the image in dir and reads its page index, which the
// caller needs only until it has resolved the stack.
func openLayer(dir string, entry LayerEntry) (*Layer, *Index, error) {
	mem, idx := layerPaths(dir, entry)
	index, err := readIndex(idx, entry)
	if err != nil {
		return nil, nil, err
	}
	f, size, err := openRegular(mem, os.O_RDONLY, remedyComplete)
	if err != nil {
		return nil, nil, err
	}
	if err := checkLayerSize(mem, size, entry.Size); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	class, err := filesystemClass(f)
	if err != nil {
		return nil, nil, errors.Join(openError(mem, remedyComplete, err), f.Close())
	}
	return &Layer{entry: entry, path: mem, file: f, class: class, counts: index.Counts()}, index, nil
}

// readIndex reads the index of a layer and checks that it is that layer's.
func readIndex(path string, entry LayerEntry) (*Index, error) {
	pages := entry.Size / PageSize
	data, err := readWhole(path, maxIndexBytes(pages), remedyComplete)
	if err != nil {
		return nil, err
	}
	index, err := DecodeIndex(data)
	if err != nil {
		return nil, &FileError{Path: path, Reason: ErrCorrupt, Remedy: remedyRestore, Err: err}
	}
	mismatch := func(format string, args ...any) error {
		return &FileError{Path: path, Reason: ErrMismatch, Remedy: remedyRestore, Detail: fmt.Sprintf(format, args...)}
	}
	if index.Layer() != entry.ID {
		return nil, mismatch("it is the index of layer %s", index.Layer())
	}
	if index.Pages() != pages {
		return nil, mismatch("it covers %d pages, the layer has %d", index.Pages(), pages)
	}
	if n := index.Counts().Absent; entry.Kind == Full && n > 0 {
		return nil, mismatch("it lacks %d pages, a full layer has all", n)
	}
	return index, nil
}

// ID returns the layer's id.
func (l *Layer) ID() LayerID { return l.entry.ID }

// Kind returns whether the layer is full or a diff.
func (l *Layer) Kind() Kind { return l.entry.Kind }

// Size returns the layer's length in bytes, holes included; it is the image's.
func (l *Layer) Size() uint64 { return l.entry.Size }

// Counts returns how many pages of the layer are in each state.
func (l *Layer) Counts() Counts { return l.counts }

// Path returns where the layer was found. The name may be gone by now; the open
// file stays readable.
func (l *Layer) Path() string { return l.path }

// Filesystem returns what reading the layer costs.
func (l *Layer) Filesystem() FilesystemClass { return l.class }

// File returns the open file, for reading only. It belongs to the image and stays
// valid until the image's last Close; the caller must not close it.
func (l *Layer) File() *os.File { return l.file }

// ReadAt reads len(p) bytes at offset off of the layer's file. It gives them all
// or fails: a file that ends early gives a *FileError of reason [ErrTruncated],
// for a sealed layer cannot shrink by itself. It consults no page index: absent
// and zero pages are what the file holds there. It does not allocate unless it
// fails.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.file.ReadAt(p, off)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		return n, &FileError{
			Path: l.path, Reason: ErrTruncated, Remedy: remedyRestore,
			Detail: fmt.Sprintf("it ended at byte %d while in use, its image says %d", off+int64(n), l.entry.Size),
		}
	}
	return n, &FileError{Path: l.path, Reason: ErrUnreadable, Remedy: remedyAccess, Err: err}
}
