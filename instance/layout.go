package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/internal/lockfile"
	"github.com/faultline-vm/faultline/internal/problem"
)

// formatVersion is the version of the data directory that this package reads and
// writes; it stands in the file VERSION.
const formatVersion = 1

// layout names the places in a data directory.
type layout struct {
	root      string // absolute, without symbolic links
	instances string
	snapshots string
}

func newLayout(root string) layout {
	return layout{root: root, instances: filepath.Join(root, "instances"), snapshots: filepath.Join(root, "snapshots")}
}

func (l layout) instance(id string) string { return filepath.Join(l.instances, id) }

func (l layout) snapshot(id string) string { return filepath.Join(l.snapshots, id) }

// takeDataDir makes the data directory ready and keeps every other manager out of
// it until the lock is given back.
func takeDataDir(dir string) (l layout, lock *lockfile.Lock, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return layout{}, nil, badRequest("name a directory", "data directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return layout{}, nil, badRequest("make its parent, or name another one", "data directory: %w", err)
	}
	// What the kernel says of a process's directory has no symbolic links.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return layout{}, nil, badRequest("name another one", "data directory: %w", err)
	}
	l = newLayout(dir)
	if lock, err = lockDir(filepath.Join(dir, "lock")); err != nil {
		return layout{}, nil, err
	}
	if err := l.prepare(); err != nil {
		return layout{}, nil, errors.Join(err, lock.Release())
	}
	return l, lock, nil
}

// prepare checks or makes what the directory of a manager has. The lock is held.
func (l layout) prepare() error {
	if err := checkFormat(filepath.Join(l.root, "VERSION")); err != nil {
		return err
	}
	for _, sub := range []string{l.instances, l.snapshots} {
		if err := os.Mkdir(sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return problem.From(fmt.Errorf("data directory: %w", err))
		}
	}
	return nil
}

// lockDir takes the lock that one manager holds; another one is refused at once. Whoever
// gets it can be sure to find all VMMs of the manager before in /proc.
func lockDir(path string) (*lockfile.Lock, error) {
	lock, err := lockfile.Take(path)
	held := new(lockfile.HeldError)
	switch {
	case errors.As(err, &held):
		return nil, problem.New(http.StatusConflict, CodeLocked, "end the other daemon, or use another data directory",
			"the data directory %s belongs to another daemon (process %d)", filepath.Dir(path), held.PID)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EROFS):
		return nil, badRequest("name a directory that this user may write to", "data directory: %w", err)
	case err != nil:
		return nil, problem.From(fmt.Errorf("data directory: %w", err))
	}
	return lock, nil
}

// checkFormat reads the version of the data directory, or writes it into a new one.
func checkFormat(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WriteFile(path, []byte(strconv.Itoa(formatVersion)+"\n"), 0o600); err != nil {
			return problem.From(fmt.Errorf("data directory: %w", err))
		}
		return nil
	}
	if err != nil {
		return problem.From(fmt.Errorf("data directory: %w", err))
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case err != nil || version < 1:
		return badRequest("use another data directory", "%s holds %.40q and not a version", path, text)
	case version > formatVersion:
		return problem.New(http.StatusConflict, CodeNewerFormat, "use the program that wrote it, or a later one",
			"the data directory %s has format %d, this program knows up to %d", filepath.Dir(path), version, formatVersion)
	}
	return nil
}
