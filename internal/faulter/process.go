package faulter

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// Process is a running child. All methods may be called concurrently, and a call
// whose access waits in a fault does not delay the others.
type Process struct {
	cmd      *exec.Cmd
	control  *net.UnixConn
	greeting greeting
	exited   chan struct{} // closed when the child was reaped

	taking sync.Mutex // serialises TakeFD, so that each takes its own descriptor

	writing sync.Mutex // protects the fields below it
	stdin   io.WriteCloser
	encoder *gob.Encoder

	mu      sync.Mutex // protects the fields below it
	last    uint64
	pending map[uint64]*pending
	gone    bool
}

// pending is a call without an answer. done is closed after the other fields are
// set.
type pending struct {
	done     chan struct{}
	response response
	err      error
}

func (c *pending) finish(r response, err error) {
	c.response, c.err = r, err
	close(c.done)
}

// Start runs a child, which maps and registers its memory before Start returns.
// The caller ends it with [Process.Close] or [Process.Kill]. The error wraps
// [ErrRefused] where userfaultfd is not permitted, and is an
// *[uffd.UnsupportedError] where the kernel lacks one of the features.
func Start(config Config) (*Process, error) {
	config, err := config.normalized()
	if err != nil {
		return nil, err
	}
	p := &Process{exited: make(chan struct{}), pending: map[uint64]*pending{}}
	stdout, err := p.spawn(config.Stderr)
	if err != nil {
		return nil, fmt.Errorf("start the faulting process: %w", err)
	}
	decoder := gob.NewDecoder(stdout)
	if err := p.encoder.Encode(setup{config.Regions, config.UserModeOnly, config.Features, config.Mode}); err != nil {
		p.reap()
		return nil, fmt.Errorf("configure the faulting process; is faulter.Main the first call of main? %w", err)
	}
	if err := decoder.Decode(&p.greeting); err != nil {
		p.reap()
		return nil, fmt.Errorf("greeting of the faulting process; is faulter.Main the first call of main? %w", err)
	}
	if err := p.greeting.Err.error(); err != nil {
		p.reap()
		return nil, err
	}
	go p.receive(decoder)
	return p, nil
}

// spawn starts the binary once more and returns its standard output.
func (p *Process) spawn(stderr io.Writer) (io.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "faulter control"), os.NewFile(uintptr(pair[1]), "faulter control")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, err
	}
	p.control = conn.(*net.UnixConn)
	if stderr == nil {
		stderr = os.Stderr
	}
	p.cmd = exec.Command(self)
	p.cmd.Stderr = stderr
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.Env = append(os.Environ(), environment+"=1", "GOGC=off", "GOMEMLIMIT=off",
		"GOMAXPROCS="+strconv.Itoa(processors), "GODEBUG=asyncpreemptoff=1",
		// Where the race detector is built in, it would sleep before exit.
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	p.stdin, err = p.cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, p.control.Close())
	}
	p.encoder = gob.NewEncoder(p.stdin)
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, p.control.Close())
	}
	return stdout, nil
}

// receive hands responses to their calls until the child is gone.
func (p *Process) receive(decoder *gob.Decoder) {
	for {
		var r response
		if decoder.Decode(&r) != nil {
			break // the child has exited, which reap finds out about
		}
		p.mu.Lock()
		call := p.pending[r.ID]
		delete(p.pending, r.ID)
		p.mu.Unlock()
		if call != nil {
			call.finish(r, r.Err.error())
		}
	}
	p.reap()
}

// reap waits for the child, which has exited or is about to, and fails the calls
// that it left unanswered. It runs once.
func (p *Process) reap() {
	// A child that closed its output without exiting must not keep us.
	_ = p.cmd.Process.Kill()
	// How it ended is of no interest: it was told to, or its calls fail.
	_ = p.cmd.Wait()
	_ = p.control.Close()
	p.mu.Lock()
	p.gone = true
	left := p.pending
	p.pending = nil
	p.mu.Unlock()
	for _, call := range left {
		call.finish(response{}, ErrExited)
	}
	close(p.exited)
}

// start sends a request. The returned call is always finished in the end.
func (p *Process) start(r request) *pending {
	call := &pending{done: make(chan struct{})}
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		call.finish(response{}, ErrExited)
		return call
	}
	p.last++
	r.ID = p.last
	p.pending[r.ID] = call
	p.mu.Unlock()

	p.writing.Lock()
	err := p.encoder.Encode(r)
	p.writing.Unlock()
	if err != nil {
		// reap may have finished the call already.
		p.mu.Lock()
		_, mine := p.pending[r.ID]
		delete(p.pending, r.ID)
		p.mu.Unlock()
		if mine {
			call.finish(response{}, fmt.Errorf("%w: %w", ErrExited, err))
		}
	}
	return call
}

// do sends a request and waits for its answer.
func (p *Process) do(r request) error {
	call := p.start(r)
	<-call.done
	return call.err
}

// Regions returns the child's memory, with addresses and offsets.
func (p *Process) Regions() []Region {
	return slices.Clone(p.greeting.Regions)
}

// UserModeOnly reports whether the child's userfaultfd sees only faults of user
// mode.
func (p *Process) UserModeOnly() bool {
	return p.greeting.UserModeOnly
}

// Pid returns the child's process id.
func (p *Process) Pid() int {
	return p.cmd.Process.Pid
}

// Exited is closed when the child has ended and was reaped.
func (p *Process) Exited() <-chan struct{} {
	return p.exited
}

// TakeFD returns a new descriptor of the child's userfaultfd, which the caller
// closes. The child keeps its own.
func (p *Process) TakeFD() (*uffd.FD, error) {
	p.taking.Lock()
	defer p.taking.Unlock()
	if err := p.do(request{Op: opSendFD}); err != nil {
		return nil, err
	}
	_, fds, err := uffd.ReceiveFDs(p.control, make([]byte, 1))
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		uffd.CloseAll(fds)
		return nil, fmt.Errorf("faulting process sent %d descriptors instead of 1", len(fds))
	}
	return uffd.NewFD(fds[0])
}

// Kill ends the child with SIGKILL, whatever its threads wait for, and returns
// when it was reaped.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.exited
	return err
}

// Close tells the child to exit, which it does even while its threads wait in
// faults, and returns when it was reaped. Closing twice is harmless.
func (p *Process) Close() error {
	p.writing.Lock()
	err := p.stdin.Close()
	p.writing.Unlock()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	<-p.exited
	return err
}
