// Package ref owns what the fault benchmarks compare with, in C: the smallest handler
// of userfaultfd, and the smallest VMM; their sources, how they are built and their
// processes.
//
// They are yardsticks and nothing else links them. The sources are compiled when a
// benchmark runs, into a directory that the caller names, so the project needs no
// C compiler to build. There are no locks.
package ref

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The sources lie in a directory without Go files: the go command takes C files
// beside them for cgo.
//
//go:embed c
var sources embed.FS

// ErrNoCompiler is wrapped by the error of [Build] where there is no C compiler.
var ErrNoCompiler = errors.New("no C compiler; install one as cc, or set CC")

// Flags are those that the programs are compiled with.
const Flags = "-O2"

// Programs are the built programs.
type Programs struct {
	// Handler and VMM are their paths.
	Handler, VMM string
	// Compiler says what they were built with, for a report.
	Compiler string
}

// Build compiles the programs into dir. The compiler is $CC, and cc without it. The
// error wraps [ErrNoCompiler] where that is not there.
func Build(ctx context.Context, dir string) (Programs, error) {
	name := os.Getenv("CC")
	if name == "" {
		name = "cc"
	}
	compiler, err := exec.LookPath(name)
	if err != nil {
		return Programs{}, fmt.Errorf("%w (%w)", ErrNoCompiler, err)
	}
	handler, err := compile(ctx, compiler, dir, "handler")
	if err != nil {
		return Programs{}, err
	}
	vmm, err := compile(ctx, compiler, dir, "vmm")
	if err != nil {
		return Programs{}, err
	}
	return Programs{Handler: handler, VMM: vmm, Compiler: describe(ctx, compiler)}, nil
}

// compile makes the program of that name and returns its path.
func compile(ctx context.Context, compiler, dir, name string) (string, error) {
	source, err := sources.ReadFile("c/" + name + ".c")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, name)
	if err := os.WriteFile(program+".c", source, 0o600); err != nil {
		return "", fmt.Errorf("the source of the reference %s: %w", name, err)
	}
	if out, err := exec.CommandContext(ctx, compiler, Flags, "-o", program, program+".c").CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the reference %s with %s: %w: %s", name, compiler, err, strings.TrimSpace(string(out)))
	}
	return program, nil
}

// describe returns the first line of the compiler's version, or its path.
func describe(ctx context.Context, compiler string) string {
	out, err := exec.CommandContext(ctx, compiler, "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	if err != nil || line == "" {
		return compiler
	}
	return line
}

// Handler is a running handler. It serves one VMM, and ends with Kill, or with the
// program that started it.
type Handler struct{ process }

// StartHandler runs a handler, which listens at socket, at most 107 bytes long, when
// StartHandler returns. The file memory must be as long as the guest's one region.
func (p Programs) StartHandler(socket, memory string) (*Handler, error) {
	h := &Handler{newProcess(p.Handler, socket, memory)}
	if _, err := h.start(); err != nil {
		return nil, err
	}
	return h, nil
}

// process is a running program in C.
type process struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr *strings.Builder
}

func newProcess(program string, args ...string) process {
	p := process{cmd: exec.Command(program, args...), stderr: &strings.Builder{}}
	p.cmd.Stderr = p.stderr
	// A process session of its own, as VMMs and pagers have it: the kernel schedules
	// sessions as groups (sched_autogroup), and to switch between two groups takes
	// longer than within one.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	return p
}

// start runs the program and returns the line that says that it is ready.
func (p *process) start() (ready string, err error) {
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return "", fmt.Errorf("start the reference %s: %w", p, err)
	}
	p.out = bufio.NewReader(stdout)
	if ready, err = p.out.ReadString('\n'); err != nil {
		return "", p.gone(err)
	}
	return ready, nil
}

// gone ends a program that does not answer, and says what it complained about.
func (p *process) gone(err error) error {
	return errors.Join(fmt.Errorf("the reference %s does not answer: %w", p, err), p.Kill())
}

// String is the program's name.
func (p *process) String() string { return filepath.Base(p.cmd.Path) }

// Pid is the process's number.
func (p *process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the program and reaps it; a second Kill does nothing. The error says what
// the program complained about, if it did.
func (p *process) Kill() error {
	if p.cmd.ProcessState != nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the reference %s: %w", p, err)
	}
	// That it was killed is no news.
	_ = p.cmd.Wait()
	if said := strings.TrimSpace(p.stderr.String()); said != "" {
		return fmt.Errorf("the reference %s failed: %s", p, said)
	}
	return nil
}
