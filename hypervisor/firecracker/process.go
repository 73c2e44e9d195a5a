package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/pidfd"
)

// process is one running process, ours or an earlier program's. One goroutine, watch,
// waits for its end and then closes exited.
type process struct {
	*pidfd.Process
	exited chan struct{}
	killed atomic.Bool          // SIGKILL was sent from here
	exit   hypervisor.ExitState // written before exited is closed
}

func newProcess(held *pidfd.Process) *process {
	return &process{Process: held, exited: make(chan struct{})}
}

// watch waits for the end of the process, reaps it where it is a child, and
// closes exited. Child is nil for a process that an earlier program started.
func (p *process) watch(child *os.Process) {
	defer close(p.exited)
	defer p.Close()
	p.Wait()
	switch {
	case child != nil:
		if state, err := child.Wait(); err == nil {
			p.exit = exitState(state.Sys().(syscall.WaitStatus))
		}
	case p.killed.Load(): // who kills does not wait to be told how it ended
	default:
		// One that cannot be used any more leaves the state unknown.
		_ = p.Use(func(fd int) error { p.exit = exitStateOf(fd); return nil })
	}
}

// kill sends SIGKILL and waits for the end of the process or of ctx.
func (p *process) kill(ctx context.Context) error {
	p.killed.Store(true)
	err := p.Signal(syscall.SIGKILL)
	// One that is closed already means that watch has seen the end.
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("kill VMM: %w", err)
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of VMM process %d: %w", p.PID(), context.Cause(ctx))
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
