package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/pidfd"
)

// The files of a VMM in its directory; see the package documentation.
const (
	ConsoleName = "console.log"
	InputName   = "console.in"
	StderrName  = "vmm.log"
	LogName     = "firecracker.log"
)

// socketPoll is how often a starting VMM is asked whether it listens. Firecracker
// listens within a few milliseconds.
const socketPoll = time.Millisecond

// Options say how a VMM process is started.
type Options struct {
	// Binary is the program, as [Probe] returned it.
	Binary Binary
	// Dir is the VMM's working directory. It must exist.
	Dir string
	// Input makes a named pipe that [VMM.Send] writes to. Without it the serial
	// port reads nothing.
	Input bool
	// ExtraArgs are appended to the arguments.
	ExtraArgs []string
	// Env is the VMM's environment. Nothing is inherited: a VMM's environment is
	// readable by everybody who is its user.
	Env []string
	// LogLevel is Error, Warning, Info, Debug, Trace or Off; empty means Warning.
	LogLevel string
	// DieWithParent makes the kernel kill the VMM when this program ends, however
	// it ends. It costs a thread per VMM.
	DieWithParent bool
}

// Start starts a VMM and waits until it answers on its socket. When it returns an
// error, or ctx ends before, no process is left.
func Start(ctx context.Context, opts Options) (*VMM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	if err := clearSocket(ctx, filepath.Join(dir, SocketName)); err != nil {
		return nil, err
	}
	files, err := openFiles(dir, opts.Input)
	if err != nil {
		return nil, err
	}
	defer files.close()
	consoleStart, err := files.stdout.Seek(0, 2)
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", ConsoleName, err)
	}
	proc, err := spawn(opts, dir, files)
	if err != nil {
		return nil, err
	}
	v := newVMM(proc, opts.Binary.Name, dir, consoleStart)
	if err := v.awaitSocket(ctx); err != nil {
		return nil, v.abandon(err)
	}
	return v, nil
}

// awaitSocket waits until the VMM accepts connections.
func (v *VMM) awaitSocket(ctx context.Context) error {
	for {
		conn, err := DialSocket(ctx, v.socketPath())
		switch {
		case err == nil:
			return conn.Close()
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for %s to listen: %w", v.name, context.Cause(ctx))
		case !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED):
			return fmt.Errorf("connect to the started %s: %w", v.name, err)
		}
		select {
		case <-ctx.Done():
		case <-v.proc.exited:
			return fmt.Errorf("%s ended at once", v.name)
		case <-time.After(socketPoll):
		}
	}
}

// standardFiles are the VMM's standard input, output and error.
type standardFiles struct{ stdin, stdout, stderr *os.File }

func (f standardFiles) close() {
	for _, file := range []*os.File{f.stdin, f.stdout, f.stderr} {
		if file != nil {
			_ = file.Close() // nothing was written through it
		}
	}
}

func openFiles(dir string, input bool) (f standardFiles, err error) {
	defer func() {
		if err != nil {
			f.close()
			f, err = standardFiles{}, fmt.Errorf("prepare the VMM's directory: %w", err)
		}
	}()
	const appending = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if f.stdout, err = os.OpenFile(filepath.Join(dir, ConsoleName), appending, 0o600); err != nil {
		return f, err
	}
	if f.stderr, err = os.OpenFile(filepath.Join(dir, StderrName), appending, 0o600); err != nil {
		return f, err
	}
	// The log is emptied because Firecracker writes it from offset 0, and made
	// because versions before 1.14 do not make it.
	log, err := os.OpenFile(filepath.Join(dir, LogName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return f, err
	}
	if err = log.Close(); err != nil {
		return f, err
	}
	if !input {
		f.stdin, err = os.Open(os.DevNull)
		return f, err
	}
	f.stdin, err = openInput(filepath.Join(dir, InputName))
	return f, err
}

// openInput makes the named pipe and opens the VMM's end. A pipe with a name
// outlives the program that started the VMM. The VMM's end is open for writing
// as well, so that the VMM never reads the end of the file, whoever comes and
// goes on the other side.
func openInput(path string) (*os.File, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// O_NOFOLLOW and the check below: a file in the way must not become input.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is in the way and is no named pipe: remove it", path)
	}
	// The VMM expects input that blocks, as a terminal's does.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "fcntl", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// arguments are the VMM's. The socket and the log are relative to its directory,
// so that their length does not depend on where that is.
func (o Options) arguments() []string {
	level := o.LogLevel
	if level == "" {
		level = "Warning"
	}
	return append([]string{o.Binary.Path, "--api-sock", SocketName, "--log-path", LogName, "--level", level}, o.ExtraArgs...)
}

// spawn starts the process and the goroutine that watches it.
func spawn(opts Options, dir string, files standardFiles) (*process, error) {
	type started struct {
		proc *process
		err  error
	}
	result := make(chan started)
	go func() {
		if opts.DieWithParent {
			// PR_SET_PDEATHSIG fires when the creating thread ends (prctl(2)). This
			// thread is kept for this goroutine, which ends after the VMM.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		fd := -1
		attr := &os.ProcAttr{
			Dir:   dir,
			Env:   append([]string{}, opts.Env...), // not nil, which would inherit ours
			Files: []*os.File{files.stdin, files.stdout, files.stderr},
			// A session of its own: no signal of our terminal reaches the VMM.
			Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd},
		}
		if opts.DieWithParent {
			attr.Sys.Pdeathsig = syscall.SIGKILL
		}
		child, err := os.StartProcess(opts.Binary.Path, opts.arguments(), attr)
		if err != nil {
			result <- started{err: fmt.Errorf("start %s: %w", opts.Binary.Name, err)}
			return
		}
		if fd < 0 {
			err = errors.New("the kernel has no pidfd: Linux 5.4 or later is needed")
		}
		var held *pidfd.Process
		if err == nil {
			held, err = pidfd.Take(child.Pid, fd)
		}
		if err != nil {
			_ = child.Kill()
			_, _ = child.Wait() // the error that matters is the first
			result <- started{err: fmt.Errorf("start %s: %w", opts.Binary.Name, err)}
			return
		}
		proc := newProcess(held)
		result <- started{proc: proc}
		proc.watch(child)
	}()
	r := <-result
	return r.proc, r.err
}
