package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketName is the API socket in the VMM's directory.
const SocketName = "firecracker.sock"

// maxSocketPath is what fits into sun_path with its terminating zero (unix(7)).
const maxSocketPath = 107

// DialSocket connects to the unix socket at path. A path that does not fit into a
// socket address is reached through an open descriptor of its directory, for
// which /proc must be mounted.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	if len(path) <= maxSocketPath {
		return dialer.DialContext(ctx, "unix", path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

// clearSocket removes what an earlier VMM left at path, so that a new one can
// bind. A socket that somebody answers on is an error, and so is a file that is
// no socket: neither is ours to remove.
func clearSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a socket of an earlier VMM: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way and is no socket: remove it", path)
	}
	conn, err := DialSocket(ctx, path)
	switch {
	case err == nil:
		_ = conn.Close() // nothing was written
		return fmt.Errorf("a VMM answers on %s: stop it, or use another directory", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the socket of an earlier VMM: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("ask whether a VMM still answers on %s: %w", path, err)
	}
}
