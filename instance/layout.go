package instance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/procstat"
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
	if lock, err = lockDir(filepath.Join(dir, "lock")); err != nil {
		return layout{}, nil, err
	}
	if err := l.prepare(); err != nil {
		return layout{}, nil, errors.Join(err, unlockDir(lock))
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

// lockTime is how long a lock may be held that belongs to nobody any more, see
// lockDir. Executing a program can wait for a busy disk.
const lockTime = 30 * time.Second

// lockDir takes the lock that one manager holds. The file says which process that is;
// another one is refused at once.
//
// The kernel drops the lock with the process, and with the children that the process
// was just starting: until such a child executes its program it has the lock's
// descriptor too. Such a lock is waited for. Whoever gets it can be sure to find all
// VMMs of the manager before in /proc.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, badRequest("name a directory that this user may write to", "data directory: %w", err)
	}
	for deadline := time.Now().Add(lockTime); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			err = signLock(f)
			if err == nil {
				return f, nil
			}
			return nil, problem.From(fmt.Errorf("data directory: %w", errors.Join(err, f.Close())))
		}
		holder := lockHolder(f)
		if errors.Is(err, syscall.EWOULDBLOCK) && holder == 0 && time.Now().Before(deadline) {
			continue
		}
		return nil, problem.New(http.StatusConflict, CodeLocked, "end the other daemon, or use another data directory",
			"the data directory %s belongs to another daemon (process %d): %w", filepath.Dir(path), holder, errors.Join(err, f.Close()))
	}
}

// signLock writes into the lock's file who holds it: pid and start time.
func signLock(f *os.File) error {
	stat, err := procstat.Read(os.Getpid())
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(fmt.Sprintf("%d %d\n", os.Getpid(), stat.StartTime)), 0)
	return err
}

// lockHolder returns the process that signed the lock, or 0 if it is gone.
func lockHolder(f *os.File) (pid int) {
	var started uint64
	if _, err := fmt.Fscanf(io.NewSectionReader(f, 0, 64), "%d %d\n", &pid, &started); err != nil {
		return 0
	}
	stat, err := procstat.Read(pid)
	if err != nil || stat.StartTime != started {
		return 0
	}
	return pid
}

// unlockDir gives the lock back. The signature goes first: a child that is just being
// started may hold the lock a moment longer.
func unlockDir(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) }

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
