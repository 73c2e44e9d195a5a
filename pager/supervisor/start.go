package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/sdnotify"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
)

// Options say which pager to start.
type Options struct {
	// Binary is the path of faultline-pager.
	Binary string
	// Version is the version of Binary; "" means the version that this program
	// was built with.
	Version string
	// DataDir is the host's data directory, absolute.
	DataDir string
	// CacheMaxBytes bounds the page cache; 0 leaves it to the pager.
	CacheMaxBytes uint64
	// Log is a file to which the pager's standard error is appended; "" means
	// pager.log in the pager's directory.
	Log string
	// Env is added to the environment of a pager that is started as a child: its
	// failpoints, in tests.
	Env []string
	// StartTimeout bounds the wait for the pager's health; 0 means 10 s.
	StartTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Version == "" {
		o.Version = pager.Version()
	}
	if o.Log == "" {
		o.Log = filepath.Join(pager.Dir(o.DataDir, o.Version), "pager.log")
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 10 * time.Second
	}
	return o
}

// Process is a pager that was started. Stop it exactly once.
type Process struct {
	*client.Client
	cmd    *exec.Cmd
	exited chan struct{} // closed after the exit
	err    error         // of the exit; read it after exited is closed
	log    string
}

// Start starts a pager and waits until it answers. A pager of this version that
// serves the data directory already is an error.
func Start(ctx context.Context, o Options) (*Process, error) {
	o = o.withDefaults()
	p, err := spawn(o, o.Binary, sdnotify.Variables(os.Environ(), "", 0, nil), nil)
	if err != nil {
		return nil, err
	}
	if err := p.awaitHealth(ctx, o.StartTimeout); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// spawn starts the executable at path, which the process knows as o.Binary, with an
// environment to which o.Env is added, and with files from descriptor 3 on.
func spawn(o Options, path string, env []string, files []*os.File) (*Process, error) {
	if err := os.MkdirAll(pager.Dir(o.DataDir, o.Version), 0o700); err != nil {
		return nil, fmt.Errorf("the pager's directory: %w", err)
	}
	log, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the pager's log: %w", err)
	}
	defer log.Close()
	args := []string{"--data-dir", o.DataDir}
	if o.CacheMaxBytes > 0 {
		args = append(args, "--cache-max-bytes", fmt.Sprintf("%dB", o.CacheMaxBytes))
	}
	p := &Process{cmd: exec.Command(path, args...), exited: make(chan struct{}), log: o.Log}
	p.cmd.Args[0] = o.Binary
	p.cmd.Env = append(env, o.Env...)
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = log
	// A session of its own is a process group of its own without a terminal.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the pager %s: %w", o.Binary, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	p.Client = client.New(pager.ControlSocket(o.DataDir, o.Version))
	return p, nil
}

// pollInterval is how often a pager that is starting is asked for its health.
const pollInterval = 2 * time.Millisecond

// awaitHealth waits until this very process answers.
func (p *Process) awaitHealth(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if h, err := p.Health(ctx); err == nil && h.PID == p.cmd.Process.Pid {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the pager ended at its start (%v); its log %s ends with: %s", p.err, p.log, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("the pager does not answer: %w; see its log %s", ctx.Err(), p.log)
		case <-tick.C:
		}
	}
}

// tail returns the end of a log, for an error message.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-400):])
}

// PID returns the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop drains the pager and waits for its end. When ctx ends first, the pager is
// killed: guests that it still serves then freeze.
func (p *Process) Stop(ctx context.Context) error {
	defer p.Close()
	_, err := p.Drain(ctx)
	if err == nil {
		// The pager waits for connections that are open.
		p.Close()
		select {
		case <-p.exited:
			return p.err
		case <-ctx.Done():
			err = fmt.Errorf("the pager still has sessions: %w", ctx.Err())
		}
	}
	return errors.Join(err, p.Kill())
}

// signal sends a signal to the process, unless it was reaped.
func (p *Process) signal(signal syscall.Signal) error { return p.cmd.Process.Signal(signal) }

// Kill ends the process at once and reaps it.
func (p *Process) Kill() error {
	defer p.Close()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the pager: %w", err)
	}
	<-p.exited
	return nil
}
