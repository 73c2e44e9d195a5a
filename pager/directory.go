package pager

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/internal/lockfile"
)

// takeDirectory makes the pager's directory its own: one pager of a version serves
// a data directory.
func (p *Pager) takeDirectory() error {
	if err := os.MkdirAll(p.sessionDir(), 0o700); err != nil {
		return fmt.Errorf("making the pager's directory: %w", err)
	}
	lock, err := lockfile.Take(filepath.Join(p.dir, lockName))
	if held := new(lockfile.HeldError); errors.As(err, &held) {
		return fmt.Errorf("a pager of version %s (process %d) serves %s already; use it, or drain it first", p.version, held.PID, p.cfg.DataDir)
	}
	if err != nil {
		return fmt.Errorf("the pager's lock: %w", err)
	}
	p.lock = lock
	return nil
}

// removeStaleSockets removes the sockets of a dead pager on which nobody listens: those
// that the service manager did not keep.
func (p *Pager) removeStaleSockets(entries []os.DirEntry) error {
	for _, entry := range entries {
		id, is := strings.CutSuffix(entry.Name(), socketSuffix)
		if !is || p.deposits.has(listenerName(id)) {
			continue
		}
		if err := os.Remove(filepath.Join(p.sessionDir(), entry.Name())); err != nil {
			return fmt.Errorf("removing a dead pager's socket: %w", err)
		}
	}
	return nil
}

// socketSuffix ends the name of a session's socket.
const socketSuffix = ".sock"

// lockName is the file that a pager holds locked in its directory. It says which
// process that is, for who must end a pager that does not answer.
const lockName = "pager.lock"

// Holder returns which process took the directory of a version last, by its number and
// its start time in clock ticks since the host booted. It may be gone.
func Holder(dataDir, version string) (pid int, startTime uint64, err error) {
	pid, startTime, err = lockfile.Holder(filepath.Join(Dir(dataDir, version), lockName))
	if err != nil {
		err = fmt.Errorf("the pager's lock: %w", err)
	}
	return pid, startTime, err
}

// listenPrivate makes a unix socket that only this user may connect to. A socket of
// that name that a dead pager left behind is replaced.
func listenPrivate(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// The directory is closed to others, so nobody could connect in between.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
