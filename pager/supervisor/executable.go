package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// executable is an open file of a pager program. Starting a pager through the
// descriptor starts that very file, whatever an installation has put in its place
// meanwhile: a pager of version A must not come back as version B, which would
// know nothing of A's sessions.
type executable struct{ file *os.File }

// openExecutable opens the program at path and asks it for its version.
func openExecutable(ctx context.Context, path, version string) (executable, error) {
	file, err := os.Open(path)
	if err != nil {
		return executable{}, fmt.Errorf("the pager's program: %w", err)
	}
	e := executable{file}
	output, err := exec.CommandContext(ctx, e.path(), "--version").Output()
	if err != nil {
		file.Close()
		return executable{}, fmt.Errorf("asking %s for its version: %w", path, err)
	}
	if got := strings.TrimSpace(strings.TrimPrefix(string(output), "faultline-pager ")); got != version {
		file.Close()
		return executable{}, fmt.Errorf("%s is version %q of the pager and not %s; name the program of that version", path, got, version)
	}
	return e, nil
}

// executableOf opens the program that a process runs, also if its file has been
// removed or replaced.
func executableOf(pid int) (executable, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return executable{}, fmt.Errorf("the program of the running pager: %w", err)
	}
	return executable{file}, nil
}

// path works in this process and in its children. It names this process: in a child
// the descriptor's number may be that of a file which was passed to it.
func (e executable) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), e.file.Fd()) }

func (e executable) close() { e.file.Close() }
