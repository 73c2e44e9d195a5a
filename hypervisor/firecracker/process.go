package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
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
	var err error
	if p.startTime, err = startTime(pid); err != nil {
		_ = p.pidfd.Close() // never used
		return nil, err
	}
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

// startTime reads when a process started, in clock ticks since the host booted.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	ticks, err := parseStartTime(string(stat))
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return ticks, nil
}

// parseStartTime finds field 22 of /proc/<pid>/stat (proc_pid_stat(5)). Field 2,
// the program's name, stands in parentheses and may hold anything, spaces and
// parentheses included: what follows the last one is counted.
func parseStartTime(stat string) (uint64, error) {
	behind := strings.LastIndexByte(stat, ')') + 1
	fields := strings.Fields(stat[behind:])
	const startTimeField = 22 - 3 // fields 1 and 2 are cut off, and counting starts at 1
	if behind == 0 || len(fields) <= startTimeField {
		return 0, errors.New("malformed /proc/<pid>/stat")
	}
	return strconv.ParseUint(fields[startTimeField], 10, 64)
}
