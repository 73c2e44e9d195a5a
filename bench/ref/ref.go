// Package ref owns the reference of the fault benchmarks: the smallest handler of
// userfaultfd in C, its source, how it is built and its process.
//
// It is a yardstick and nothing else links it. The source is compiled when a
// benchmark runs, into a directory that the caller names, so the project needs no
// C compiler to build. There are no locks.
package ref

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The source lies in a directory without Go files: the go command takes C files
// beside them for cgo.
//
//go:embed c/handler.c
var source []byte

// ErrNoCompiler is wrapped by the error of [Build] where there is no C compiler.
var ErrNoCompiler = errors.New("no C compiler; install one as cc, or set CC")

// Flags are those that the handler is compiled with.
const Flags = "-O2"

// Handler is a built reference handler.
type Handler struct {
	// Path is the program.
	Path string
	// Compiler says what it was built with, for a report.
	Compiler string
}

// Build compiles the handler into dir. The compiler is $CC, and cc without it. The
// error wraps [ErrNoCompiler] where that is not there.
func Build(ctx context.Context, dir string) (Handler, error) {
	name := os.Getenv("CC")
	if name == "" {
		name = "cc"
	}
	compiler, err := exec.LookPath(name)
	if err != nil {
		return Handler{}, fmt.Errorf("%w (%w)", ErrNoCompiler, err)
	}
	file, program := filepath.Join(dir, "handler.c"), filepath.Join(dir, "handler")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return Handler{}, fmt.Errorf("the reference handler's source: %w", err)
	}
	if out, err := exec.CommandContext(ctx, compiler, Flags, "-o", program, file).CombinedOutput(); err != nil {
		return Handler{}, fmt.Errorf("compile the reference handler with %s: %w: %s", compiler, err, strings.TrimSpace(string(out)))
	}
	return Handler{Path: program, Compiler: describe(ctx, compiler)}, nil
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

// Process is a running handler. It serves one VMM, and ends with Kill, or with
// the program that started it.
type Process struct {
	cmd    *exec.Cmd
	stderr *strings.Builder
}

// Start runs the handler, which listens at socket, at most 107 bytes long, when
// Start returns. The file memory must be as long as the guest's one region.
func (h Handler) Start(socket, memory string) (*Process, error) {
	p := &Process{cmd: exec.Command(h.Path, socket, memory), stderr: &strings.Builder{}}
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the reference handler: %w", err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the reference handler does not listen: %w", err), p.Kill())
	}
	return p, nil
}

// Kill ends the handler and reaps it. The error says what the handler complained
// about, if it did.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the reference handler: %w", err)
	}
	// That it was killed is no news.
	_ = p.cmd.Wait()
	if said := strings.TrimSpace(p.stderr.String()); said != "" {
		return fmt.Errorf("the reference handler failed: %s", said)
	}
	return nil
}
