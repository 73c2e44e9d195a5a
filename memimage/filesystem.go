package memimage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openRegular opens a non-empty regular file, and returns its size in bytes. It
// follows no symbolic link and never waits for the writer of a pipe. Its errors
// are of type *FileError; missing is the remedy where the file does not exist.
func openRegular(path string, flag int, missing string) (*os.File, uint64, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	// ELOOP is what O_NOFOLLOW gives for a link, ENXIO a socket, EISDIR a
	// directory that was opened for writing.
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
		return nil, 0, notRegular(path, err)
	}
	if err != nil {
		return nil, 0, openError(path, missing, err)
	}
	info, err := f.Stat()
	var fault *FileError
	switch {
	case err != nil:
		fault = openError(path, missing, err)
	case !info.Mode().IsRegular():
		fault = notRegular(path, nil)
	case info.Size() == 0:
		fault = &FileError{Path: path, Reason: ErrEmpty, Remedy: remedyRestore}
	default:
		return f, uint64(info.Size()), nil
	}
	// The fault is the news; the file was only opened for reading its status.
	_ = f.Close()
	return nil, 0, fault
}

func notRegular(path string, err error) *FileError {
	return &FileError{
		Path: path, Reason: ErrNotRegular, Err: err,
		Remedy: "put a regular file of its own there: hard-link or copy what it should be",
	}
}

// checkLayerSize compares the length of a layer's file with what its image says.
func checkLayerSize(path string, got, want uint64) error {
	if got == want {
		return nil
	}
	fault := &FileError{
		Path: path, Reason: ErrTruncated, Remedy: remedyRestore,
		Detail: fmt.Sprintf("%d bytes, its image says %d", got, want),
	}
	if got > want {
		fault.Reason = ErrMismatch
	}
	return fault
}

// FilesystemClass says what reading a layer costs.
type FilesystemClass uint8

const (
	// Local: the kernel's page cache holds what was read, and what it does not
	// hold comes from a disk of this host. A cache of one's own adds nothing.
	Local FilesystemClass = iota
	// Dear: each read may cross a network or enter another process.
	Dear
)

// String returns the class's name in lower case.
func (c FilesystemClass) String() string {
	if c == Dear {
		return "dear"
	}
	return "local"
}

// Magic numbers of filesystems that golang.org/x/sys does not name; from
// linux/magic.h and, where marked, from the filesystem's own source.
const (
	magicGFS2   = 0x01161970
	magicLustre = 0x0bd00bd0 // LL_SUPER_MAGIC
	magicSMB2   = 0xfe534d42
	magicBeeGFS = 0x19830326
)

// filesystemClass asks the kernel where an open file lives.
func filesystemClass(f *os.File) (FilesystemClass, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &st)
		if err == nil {
			return classOf(uint32(st.Type)), nil
		}
		if err != unix.EINTR {
			return Local, fmt.Errorf("statfs %s: %w", f.Name(), err)
		}
	}
}

// classOf maps a filesystem's magic number to its class. Unknown ones are taken
// as local: the page cache works on all of them.
func classOf(magic uint32) FilesystemClass {
	switch magic {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, magicSMB2,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC,
		unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC, magicGFS2,
		magicLustre, magicBeeGFS:
		return Dear
	}
	return Local
}
