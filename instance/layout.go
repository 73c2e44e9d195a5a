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
// it until the file returned is closed.
func takeDataDir(dir string) (l layout, lock *os.File, err error) {
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
	lock, err = lockDir(filepath.Join(dir, "lock"))
	if err != nil {
		return layout{}, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := checkFormat(filepath.Join(dir, "VERSION")); err != nil {
		return layout{}, nil, err
	}
	for _, sub := range []string{l.instances, l.snapshots} {
		if err := os.Mkdir(sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return layout{}, nil, problem.From(fmt.Errorf("data directory: %w", err))
		}
	}
	return l, lock, nil
}

// lockDir takes the lock that one manager holds. The kernel drops it with the
// process.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, badRequest("name a directory that this user may write to", "data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		held := errors.Join(f.Close())
		return nil, problem.New(http.StatusConflict, CodeLocked, "end the other daemon, or use another data directory",
			"the data directory %s belongs to another daemon: %w", filepath.Dir(path), errors.Join(err, held))
	}
	return f, nil
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
