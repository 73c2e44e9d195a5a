package memimage

import (
	"errors"
	"fmt"
	"io/fs"
)

// Reasons of a [FileError]; test for them with errors.Is.
var (
	// ErrMissing: the file does not exist.
	ErrMissing = errors.New("missing")
	// ErrEmpty: the file has no bytes.
	ErrEmpty = errors.New("empty")
	// ErrTruncated: the file is shorter than its image says.
	ErrTruncated = errors.New("truncated")
	// ErrUnreadable: the file is there but opening or reading it failed.
	ErrUnreadable = errors.New("unreadable")
	// ErrCorrupt: the content breaks the file's own format.
	ErrCorrupt = errors.New("corrupt")
	// ErrMismatch: the file is sound by itself but does not belong to its image.
	ErrMismatch = errors.New("mismatched")
	// ErrNotRegular: the name is a directory, symbolic link, pipe or device.
	ErrNotRegular = errors.New("not a regular file")
	// ErrShared: the file has other names, and so other owners.
	ErrShared = errors.New("shared")
	// ErrExists: the directory already holds an image.
	ErrExists = errors.New("exists already")
	// ErrOtherFilesystem: the memory file cannot be renamed into the image.
	ErrOtherFilesystem = errors.New("on another filesystem")
	// ErrCoarseHoles: the filesystem does not report holes page by page.
	ErrCoarseHoles = errors.New("holes not reported page by page")
)

// Errors that are not about one file.
var (
	// ErrClosed: the image was closed by its last holder.
	ErrClosed = errors.New("memory image is closed")
	// ErrNotFlat: the image is a stack, and so no single file holds its memory.
	ErrNotFlat = errors.New("memory image is a stack of several layers, not a flat image")
)

// FileError says which file of a memory image is unusable, why, and what to do.
type FileError struct {
	// Path is the file as it was opened.
	Path string
	// Reason is one of the Err variables of this package.
	Reason error
	// Detail adds figures to the reason. It may be empty.
	Detail string
	// Remedy says what to do about it.
	Remedy string
	// Err is the cause from the operating system or a decoder. It may be nil.
	Err error
}

// Error names the file, the reason and the remedy, in one line.
func (e *FileError) Error() string {
	s := fmt.Sprintf("memory image file %s is %v", e.Path, e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + "; " + e.Remedy
}

// Unwrap returns the reason and the cause.
func (e *FileError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// Remedies that several places give.
const (
	remedyManifest = "give the path of an image's " + ManifestName + ", or take a new capture"
	remedyRestore  = "restore it from another copy of the image, or take a new capture"
	remedyComplete = "hard-link or copy the layer and its index into the image's layers directory, or take a new capture"
	remedyAccess   = "make the file readable for this user, and check the disk if it already is"
)

// openError types an error of open or stat; missing is the remedy where the file
// does not exist.
func openError(path, missing string, err error) *FileError {
	if errors.Is(err, fs.ErrNotExist) {
		return &FileError{Path: path, Reason: ErrMissing, Remedy: missing, Err: err}
	}
	return &FileError{Path: path, Reason: ErrUnreadable, Remedy: remedyAccess, Err: err}
}
