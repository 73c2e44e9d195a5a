package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/pidfd"
)

// VMM is one process of Firecracker or fcsim. It implements hypervisor.VMM. It
// needs no closing: what it holds is released when the process ends.
type VMM struct {
	proc         *process
	api          *Client
	name         string // Real or Simulator, for messages
	dir          string // absolute
	consoleStart int64
}

var _ hypervisor.VMM = (*VMM)(nil)

func newVMM(proc *process, name, dir string, consoleStart int64) *VMM {
	return &VMM{proc: proc, api: NewClient(filepath.Join(dir, SocketName)), name: name, dir: dir, consoleStart: consoleStart}
}

// Attach takes up a VMM that an earlier program started. It fails with an error
// that wraps os.ErrProcessDone when the process is gone or the number now belongs
// to another one. The exit state of such a VMM is known since Linux 6.15,
// unless it was killed through the result. A console opened at a negative offset starts at the file's beginning.
func Attach(ctx context.Context, ref hypervisor.ProcessRef) (*VMM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(ref.Dir)
	if err != nil {
		return nil, err
	}
	held, err := pidfd.Reopen(ref.PID, ref.StartTime)
	if err != nil {
		return nil, fmt.Errorf("attach to VMM: %w", err)
	}
	proc := newProcess(held)
	go proc.watch(nil)
	return newVMM(proc, "VMM", dir, 0), nil
}

// API returns the client of the VMM's API.
func (v *VMM) API() *Client { return v.api }

// Dir returns the VMM's directory.
func (v *VMM) Dir() string { return v.dir }

// Ref identifies the process for a later [Attach].
func (v *VMM) Ref() hypervisor.ProcessRef {
	return hypervisor.ProcessRef{Dir: v.dir, PID: v.proc.PID(), StartTime: v.proc.StartTime()}
}

// State asks the VMM for the microVM's state.
func (v *VMM) State(ctx context.Context) (hypervisor.State, error) {
	info, err := v.api.Info(ctx)
	return hypervisor.State(info.State), v.explain(err)
}

// Pause stops the vCPUs.
func (v *VMM) Pause(ctx context.Context) error { return v.explain(v.api.Pause(ctx)) }

// Resume lets the vCPUs run.
func (v *VMM) Resume(ctx context.Context) error { return v.explain(v.api.Resume(ctx)) }

// Snapshot writes the paused microVM to files.
func (v *VMM) Snapshot(ctx context.Context, spec hypervisor.SnapshotSpec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	return v.explain(v.api.CreateSnapshot(ctx, SnapshotCreate{
		SnapshotType: string(spec.Kind), SnapshotPath: spec.StatePath, MemFilePath: spec.MemoryPath,
	}))
}

// SetBalloon sets how many MiB the guest is asked to give back.
func (v *VMM) SetBalloon(ctx context.Context, mib int) error {
	return v.explain(v.api.UpdateBalloon(ctx, mib))
}

// Send types into the guest's serial console, through the named pipe that the
// VMM was started with.
func (v *VMM) Send(input []byte) error {
	path := filepath.Join(v.dir, InputName)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("send to the guest's console: %s was started without input", v.name)
	case errors.Is(err, unix.ENXIO):
		return fmt.Errorf("send to the guest's console: %w", v.explain(errors.New("nobody reads it")))
	case err != nil:
		return fmt.Errorf("send to the guest's console: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, input)
	if errors.Is(err, unix.EAGAIN) || err == nil && n < len(input) {
		return fmt.Errorf("send to the guest's console: the guest does not read: %d of %d bytes sent", max(n, 0), len(input))
	}
	if err != nil {
		return fmt.Errorf("send to the guest's console: %w", err)
	}
	return nil
}

// Console follows the guest's serial output; see hypervisor.VMM.
func (v *VMM) Console(offset int64) (*hypervisor.Console, error) {
	if offset < 0 {
		offset = v.consoleStart
	}
	return hypervisor.OpenConsole(filepath.Join(v.dir, ConsoleName), offset, v.proc.exited)
}

// Exited is closed when the process is gone.
func (v *VMM) Exited() <-chan struct{} { return v.proc.exited }

// ExitState says how the process ended. It is the zero value before that.
func (v *VMM) ExitState() hypervisor.ExitState {
	if !v.proc.hasExited() {
		return hypervisor.ExitState{}
	}
	return v.proc.exit
}

// Kill ends the process and waits until it is gone or ctx ends.
func (v *VMM) Kill(ctx context.Context) error { return v.proc.kill(ctx) }

func (v *VMM) socketPath() string { return filepath.Join(v.dir, SocketName) }

// killTimeout bounds the wait for a killed VMM where there is no context left to
// bound it. The kernel takes milliseconds, longer for a large guest's memory.
const killTimeout = 30 * time.Second

// abandon kills and reaps a VMM that could not be brought up and returns err with
// what is known about its end.
func (v *VMM) abandon(err error) error {
	// Asked before the kill, which would otherwise be what it ended by. A VMM that
	// refuses a load answers first and exits then; the answer says why.
	err = v.explain(err)
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if kerr := v.proc.kill(ctx); kerr != nil {
		return errors.Join(err, kerr)
	}
	if rerr := os.Remove(v.socketPath()); !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// explain adds to an error how the VMM ended, where it has ended, and what it
// said last. A refused request explains itself.
func (v *VMM) explain(err error) error {
	var refused *APIError
	if err == nil || errors.As(err, &refused) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// A broken connection and the end of the process are seen in either order.
	select {
	case <-v.proc.exited:
	case <-time.After(exitGrace):
		return err
	}
	if said := lastWords(v.dir); said != "" {
		return fmt.Errorf("%w: %s has ended (%s) and said: %s", err, v.name, v.proc.exit, said)
	}
	return fmt.Errorf("%w: %s has ended (%s)", err, v.name, v.proc.exit)
}

// exitGrace is how long a failed call waits to learn whether the VMM has ended.
const exitGrace = 100 * time.Millisecond
