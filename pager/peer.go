package pager

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// peer is the VMM process behind a handshake, held by a pidfd so that neither its
// end is missed nor a process that got its number later is taken for it.
type peer struct {
	pid int
	fd  *os.File // pidfd, non-blocking, in Go's poller
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
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("pidfd of process %d: %w", cred.Pid, err)
	}
	return &peer{pid: int(cred.Pid), fd: os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd of %d", cred.Pid))}, nil
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
