package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// suite is one run of go test.
type suite struct {
	name string
	args []string
}

// run feeds one go test into t. An error says that the run itself went wrong;
// failing tests are not an error but in t.
func (s suite) run(ctx context.Context, goCommand string, t *tally, stderr io.Writer) error {
	env := os.Environ()
	if slices.Contains(s.args, "-race") {
		if compiler, found := cCompiler(ctx, goCommand); !found {
			return s.skip(ctx, goCommand, t, compiler)
		}
		env = append(env, "CGO_ENABLED=1")
	}
	fmt.Fprintf(t.out, "=== %s: go test %s\n", s.name, strings.Join(s.args, " "))
	t.suite = s.name

	cmd := exec.CommandContext(ctx, goCommand, append([]string{"test", "-json"}, s.args...)...)
	cmd.Env, cmd.Stderr = env, stderr
	// An interrupt lets go test end its test binaries, and those their children.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("pipe for go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	failedBefore := t.failed
	readErr := t.read(output)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && t.failed > failedBefore {
		err = nil // the failures that t counted are why
	}
	return errors.Join(readErr, err)
}

// skip counts the packages of a race run that cannot be built.
func (s suite) skip(ctx context.Context, goCommand string, t *tally, compiler string) error {
	reason := fmt.Sprintf("no race run: the C compiler %q is not on PATH; install gcc or clang", compiler)
	list := []string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}"}
	for _, arg := range s.args {
		if !strings.HasPrefix(arg, "-") {
			list = append(list, arg)
		}
	}
	output, err := exec.CommandContext(ctx, goCommand, list...).Output()
	if err != nil {
		return fmt.Errorf("list the packages of the race run: %w", err)
	}
	t.suite = s.name
	fmt.Fprintf(t.out, "=== %s: SKIPPED: %s\n", s.name, reason)
	for _, pkg := range strings.Fields(string(output)) {
		t.skip(pkg, reason)
	}
	return nil
}

// cCompiler returns what cgo would call and whether it is there.
func cCompiler(ctx context.Context, goCommand string) (string, bool) {
	output, err := exec.CommandContext(ctx, goCommand, "env", "CC").Output()
	name, _, _ := strings.Cut(strings.TrimSpace(string(output)), " ")
	if err != nil || name == "" {
		name = "cc"
	}
	_, err = exec.LookPath(name)
	return name, err == nil
}
