// Package lockfile lets one process at a time have something, by a file that it holds
// locked with flock(2) and that says which process that is.
//
//	lock, err := lockfile.Take(filepath.Join(dir, "lock"))
//	if held := new(lockfile.HeldError); errors.As(err, &held) {
//		return fmt.Errorf("process %d has it", held.PID)
//	}
//	defer lock.Release()
//
// The kernel drops the lock with the process, and with the children that the process was
// just starting: until such a child executes its program, it has the lock's descriptor
// too. So whoever takes the lock of a dead process can be sure to find all its children
// in /proc.
//
// The file stays when the lock is given back: were it removed, two processes could hold
// locks of two files of one name.
package lockfile

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/faultline-vm/faultline/internal/procstat"
	"golang.org/x/sys/unix"
)

// Lock is a lock that this process holds. It is one goroutine's at a time.
type Lock struct{ file *os.File }

// HeldError says that another process, or another Lock of this one, holds the lock.
type HeldError struct {
	Path string
	// PID is the process, or 0 if that has ended and the lock did not come free.
	PID int
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by what a process has started that ended", e.Path)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// patience is how long a lock may be held that belongs to nobody any more. Executing a
// program can wait for a busy disk.
const patience = 30 * time.Second

// Take makes the file if need be, locks it, and writes into it who holds it. The lock of
// a process that lives is an error at once, which is a [HeldError]; that of one that has
// ended is waited for.
func Take(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = sign(file)
		}
		if err == nil {
			return &Lock{file}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, file.Close()))
		}
		pid := living(path)
		if pid == 0 && time.Now().Before(deadline) {
			continue
		}
		return nil, errors.Join(&HeldError{Path: path, PID: pid}, file.Close())
	}
}

// sign writes who holds the lock.
func sign(file *os.File) error {
	stat, err := procstat.Read(os.Getpid())
	if err != nil {
		return err
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err = file.WriteAt(fmt.Appendf(nil, "%d %d\n", os.Getpid(), stat.StartTime), 0)
	return err
}

// Holder returns which process took the lock last, by its number and its start time in
// clock ticks since the host booted. It may have ended; pidfd.Reopen tells.
func Holder(path string) (pid int, startTime uint64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(string(text), "%d %d\n", &pid, &startTime); err != nil || pid <= 0 {
		return 0, 0, fmt.Errorf("%s does not say who holds it", path)
	}
	return pid, startTime, nil
}

// living returns the process that took the lock last, or 0 if it has ended.
func living(path string) (pid int) {
	pid, started, err := Holder(path)
	if err != nil {
		return 0
	}
	stat, err := procstat.Read(pid)
	if err != nil || stat.StartTime != started {
		return 0
	}
	return pid
}

// Release gives the lock back. What the file says goes first: a child that is just being
// started may hold the lock a moment longer. A second call returns os.ErrClosed.
func (l *Lock) Release() error { return errors.Join(l.file.Truncate(0), l.file.Close()) }
