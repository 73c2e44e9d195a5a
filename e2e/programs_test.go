package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/leftover"
)

// patience bounds a program that hangs. Nothing is expected to come near it.
const patience = 4 * time.Minute

// binaries is where the programs are; written by TestMain only.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Another user shall be able to run them.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// As installed: other versions of the pager have their place beside bin.
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/faultline", "./cmd/faultline-pager", "./cmd/fcsim")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, output)
		return 1
	}
	binaries = bin
	return m.Run()
}

// run is one finished run of a program.
type run struct {
	code           int
	stdout, stderr string
}

func (r run) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// faultline runs the program of that name in bin. Prepare may change how.
func faultline(t *testing.T, bin string, prepare func(*exec.Cmd), args ...string) run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "faultline"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = environment()
	if prepare != nil {
		prepare(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run faultline %q: %v", args, err)
	}
	return run{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// environment is that of the tests without what names a guest for other tests.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FAULTLINE_") })
}

// dataDir makes a directory that every user can write to, with a path short
// enough for sockets, and checks at the end that nothing was left in it and that
// nothing runs that belongs to it.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, process := range processesOf(t, dir) {
			t.Errorf("still running: %s", process)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in the data directory: %v, %v", left, err)
		}
		os.RemoveAll(dir)
	})
	return dir
}

// processesOf returns the processes that work in dir or name it.
func processesOf(t *testing.T, dir string) []leftover.Process {
	t.Helper()
	found, err := leftover.Processes(dir)
	if err != nil {
		t.Error(err)
	}
	return found
}

// asOrdinaryUser drops root's rights, if there are any to drop.
func asOrdinaryUser(cmd *exec.Cmd) {
	const nobody = 65534
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = "/"
}

// decode reads exactly one JSON object.
func decode(t *testing.T, r run, value any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.stdout))
	if err := d.Decode(value); err != nil {
		t.Fatalf("standard output is no JSON object: %v\n%v", err, r)
	}
	if d.More() {
		t.Fatalf("standard output goes on behind the JSON object\n%v", r)
	}
}
