package pager

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/faultline-vm/faultline/internal/procstat"
	"golang.org/x/sys/unix"
)

// peer is the VMM process behind a handshake, held by a pidfd so that neither its
// end is missed nor a process that got its number later is taken for it.
type peer struct {
	pid       int
	startTime uint64   // see procstat.Stat
	fd        *os.File // pidfd, non-blocking, in Go's poller
}

// newPeer identifies the process at the other end of a unix socket. The kernel
// tells its credentials of the moment of connect(2): SO_PEERPIDFD since Linux 6.5,
// before that the pid, which is checked to be alive after it was opened.
func newPeer(conn *net.UnixConn) (*peer, error) {
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
	if err = errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("identifying the process that connected: %w", err)
	}
	if cred.Pid <= 0 {
		unix.Close(pidfd)
		return nil, errors.New("the process that connected is not visible here; run the pager in the VMM's pid namespace or in one above it")
	}
	return holdPeer(int(cred.Pid), pidfd)
}

// openPeer finds a process again by its number and start time. The error is
// errVMMExited when it is gone, or when its number belongs to another process.
func openPeer(pid int, startTime uint64) (*peer, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, errVMMExited
	}
	if err != nil {
		return nil, fmt.Errorf("opening VMM process %d: %w", pid, err)
	}
	p, err := holdPeer(pid, pidfd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errVMMExited
	}
	if err == nil && p.startTime != startTime {
		p.close()
		return nil, fmt.Errorf("%w: process %d is a later one of the same number", errVMMExited, pid)
	}
	return p, err
}

// holdPeer makes a peer of a pidfd, which it takes over.
func holdPeer(pid, pidfd int) (*peer, error) {
	stat, err := procstat.Read(pid)
	if err == nil {
		err = unix.SetNonblock(pidfd, true)
	}
	if err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("VMM process %d: %w", pid, err)
	}
	return &peer{pid: pid, startTime: stat.StartTime, fd: os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd of %d", pid))}, nil
}

// wait returns when the process has ended (true) or the peer was closed (false).
func (p *peer) wait() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = err == nil && n == 1
		return ended
	})
	return err == nil && ended
}

// stopWaiting ends a wait in progress.
func (p *peer) stopWaiting() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) }

// end kills the process and waits for its end. That it has ended already is not an
// error. SIGKILL reaches threads that are blocked in a page fault.
func (p *peer) end(timeout time.Duration) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("killing VMM process %d: %w", p.pid, err)
	}
	if err := p.fd.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if !p.wait() {
		return fmt.Errorf("VMM process %d did not end within %v of SIGKILL", p.pid, timeout)
	}
	return nil
}

func (p *peer) close() { _ = p.fd.Close() }
