package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/procstat"
)

// process is one running process, ours or an earlier program's, held by a pidfd:
// the number may be reused when the process is gone, the descriptor is not. One
// goroutine, watch, waits for its end and then closes exited. The descriptor is
// polled by the runtime's poller, so that a waiting VMM costs no thread.
type process struct {
	pid       int
	startTime uint64
	pidfd     *os.File
	exited    chan struct{}
	exit      hypervisor.ExitState // written before exited is closed
}

// hold makes a process of a pidfd, which it takes over.
func hold(pid, pidfd int) (*process, error) {
	// The poller takes only descriptors that say they do not block.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("prepare pidfd of process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd"), exited: make(chan struct{})}
	stat, err := procstat.Read(pid)
	if err != nil {
		_ = p.pidfd.Close() // never used
		return nil, err
	}
	p.startTime = stat.StartTime
	return p, nil
}

// watch waits for the end of the process, reaps it where it is a child, and
// closes exited. Child is nil for a process that an earlier program started.
func (p *process) watch(child *os.Process) {
	defer close(p.exited)
	defer p.pidfd.Close()
	// A pidfd becomes readable when the process has ended (pidfd_open(2)).
	if raw, err := p.pidfd.SyscallConn(); err == nil {
		if raw.Read(func(fd uintptr) bool { return readable(fd, 0) }) != nil {
			// The runtime cannot poll it: wait in this thread instead.
			_ = raw.Control(func(fd uintptr) { readable(fd, -1) })
		}
	}
	if child == nil {
		return
	}
	state, err := child.Wait()
	if err != nil {
		return
	}
	status := state.Sys().(syscall.WaitStatus)
	p.exit = hypervisor.ExitState{Known: true}
	if status.Signaled() {
		p.exit.Signal = status.Signal()
	} else {
		p.exit.Code = status.ExitStatus()
	}
}

// readable polls a descriptor; a timeout below zero waits until it is readable.
func readable(fd uintptr, timeout int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// kill sends SIGKILL and waits for the end of the process or of ctx.
func (p *process) kill(ctx context.Context) error {
	var sent error
	if raw, err := p.pidfd.SyscallConn(); err == nil {
		// A pidfd that is closed already means that watch has seen the end.
		_ = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("kill VMM process %d: %w", p.pid, sent)
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of VMM process %d: %w", p.pid, context.Cause(ctx))
	}
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}
