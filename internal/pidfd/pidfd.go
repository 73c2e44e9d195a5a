// Package pidfd holds processes by their pidfds (pidfd_open(2)), so that the end of a
// process is not missed, and a process that got its number later is not taken for it.
//
// A [Process] owns one descriptor, which lies in Go's poller: who waits for the end of
// a process takes no thread. The process itself belongs to whoever started it; it is
// not reaped here. The package has no state and no locks.
package pidfd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/procstat"
	"golang.org/x/sys/unix"
)

// Process is one process. Any number of goroutines may use it, but only one at a time
// may wait.
type Process struct {
	pid       int
	startTime uint64
	file      *os.File
}

// Open holds the process that has the number now. The error wraps os.ErrProcessDone
// where there is none. It needs Linux 5.3.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	return Take(pid, fd)
}

// Reopen holds the process of a number and start time; see [Process.StartTime]. The
// error wraps os.ErrProcessDone where it is gone, also if its number belongs to a
// later process.
func Reopen(pid int, startTime uint64) (*Process, error) {
	p, err := Open(pid)
	if err != nil {
		return nil, err
	}
	// The descriptor was opened first: were the number reused in between, it would
	// name the new process, and so would the start time.
	if p.startTime != startTime {
		p.Close()
		return nil, fmt.Errorf("%w: process %d is a later one of the same number", os.ErrProcessDone, pid)
	}
	return p, nil
}

// Connected holds the process at the other end of a unix socket: the one that called
// connect(2), by SO_PEERPIDFD since Linux 6.5, before that by its number, which is
// checked to be alive after it was opened. The error wraps os.ErrProcessDone where it
// has ended already.
func Connected(conn *net.UnixConn) (*Process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var pidfd int
	ctlErr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		if pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			unix.CloseOnExec(pidfd)
		} else if errors.Is(err, unix.ENOPROTOOPT) && cred.Pid > 0 {
			pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
		}
	})
	if errors.Is(err, unix.ESRCH) { // Linux before 6.16
		err = os.ErrProcessDone
	}
	if err = errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("identifying the process that connected: %w", err)
	}
	if cred.Pid <= 0 {
		unix.Close(pidfd)
		return nil, errors.New("the process that connected is not visible here; run this program in its pid namespace or in one above it")
	}
	return Take(int(cred.Pid), pidfd)
}

// Take makes a Process of a pidfd, which it takes over and closes on an error. Pid is
// the number of its process. The error wraps os.ErrProcessDone where that is gone.
func Take(pid, pidfd int) (*Process, error) {
	// The poller takes only descriptors that say they do not block.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	p := &Process{pid: pid, file: os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd of %d", pid))}
	stat, err := procstat.Read(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err == nil && errors.Is(p.Signal(0), os.ErrProcessDone) {
		// What was read may be another process's that got the number.
		err = fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err == nil {
		// It fails where the poller did not take it.
		err = p.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	p.startTime = stat.StartTime
	return p, nil
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.pid }

// StartTime returns when the process started, in clock ticks since the host booted.
// With the number it identifies the process for a later [Reopen].
func (p *Process) StartTime() uint64 { return p.startTime }

// Wait returns when the process has ended (true), or when StopWaiting or Close was
// called (false).
func (p *Process) Wait() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		// A pidfd becomes readable when the process has ended.
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = err == nil && n == 1
		return ended
	})
	return err == nil && ended
}

// StopWaiting ends a wait in progress, and every later one but that of End.
func (p *Process) StopWaiting() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

// Signal sends a signal. The error wraps os.ErrProcessDone where the process has ended,
// and os.ErrClosed after Close.
func (p *Process) Signal(signal syscall.Signal) error {
	err := p.Use(func(fd int) error { return unix.PidfdSendSignal(fd, signal, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal %d for process %d: %w", signal, p.pid, err)
	}
	return nil
}

// End kills the process and waits for its end, at most for the time given. That it has
// ended already is not an error. SIGKILL reaches threads that wait in a page fault.
func (p *Process) End(timeout time.Duration) error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := p.file.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if !p.Wait() {
		return fmt.Errorf("process %d did not end within %v of SIGKILL", p.pid, timeout)
	}
	return nil
}

// Use calls fn with the descriptor, which stays valid until fn returns. fn must neither
// close nor keep it. After Close it returns os.ErrClosed.
func (p *Process) Use(fn func(fd int) error) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	if raw.Control(func(fd uintptr) { err = fn(int(fd)) }) != nil {
		return os.ErrClosed // its only error is not exported
	}
	return err
}

// Close gives the descriptor back and ends a wait. Closing twice is harmless.
func (p *Process) Close() { _ = p.file.Close() }
