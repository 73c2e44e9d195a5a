package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

const (
	// socketMode lets the owner and the socket's group in. Whoever may connect may
	// do everything.
	socketMode = 0o660
	// maxSocketPath is what fits into sun_path with its terminating zero (unix(7)).
	maxSocketPath = 107
)

// Listen makes the daemon's unix socket at path, replacing one that a dead daemon
// left: the caller must know that no other daemon lives. Group is a group's name or
// number; empty leaves the group of this process. The socket is made in a directory
// that nobody else can enter, and takes its path by a rename when its mode and group
// are right: there is no moment at which a stranger could connect.
//
// Closing the listener leaves the path; [Unlink] removes it.
func Listen(path, group string) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("API socket %s has %d bytes, more than the %d of a socket address: choose a shorter path", path, len(path), maxSocketPath)
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("make the API socket: %w", err)
	}
	defer os.RemoveAll(private)
	temporary := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the API socket: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the name that it knows is the temporary one
	if err := errors.Join(
		os.Chown(temporary, -1, gid),
		os.Chmod(temporary, socketMode),
		os.Rename(temporary, path),
	); err != nil {
		return nil, errors.Join(fmt.Errorf("make the API socket %s: %w", path, err), listener.Close())
	}
	return listener, nil
}

// Unlink removes the socket at path. That there is none is no error.
func Unlink(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the API socket: %w", err)
	}
	return nil
}

// groupID returns -1 for an empty group, which os.Chown leaves as it is.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if gid, err := strconv.Atoi(group); err == nil && gid >= 0 {
		return gid, nil
	}
	found, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %q of the API socket: %w; create it with groupadd, or configure another", group, err)
	}
	return strconv.Atoi(found.Gid)
}
