// Package leftover finds the processes that still work below a directory, when all that
// was started there should have ended, and ends them.
//
// The package owns nothing and has no state. Whoever calls [End] owns the directory and
// whatever works in it.
package leftover

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process that was found.
type Process struct {
	PID       int
	Arguments string // with spaces in between
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, p.Arguments) }

// Processes returns the processes, other than this one, whose working directory is dir
// or below it, or which name it or what is below it in an argument. Dir is absolute and
// clean.
func Processes(dir string) (found []Process, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that ends meanwhile reads as empty.
		arguments, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		if below(cwd, dir) || slices.ContainsFunc(bytes.Split(arguments, []byte{0}), func(a []byte) bool { return names(string(a), dir) }) {
			found = append(found, Process{pid, strings.TrimSpace(string(bytes.ReplaceAll(arguments, []byte{0}, []byte{' '})))})
		}
	}
	return found, nil
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// names reports whether an argument is a path below dir, or gives one to a flag.
func names(argument, dir string) bool {
	_, value, _ := strings.Cut(argument, "=")
	return below(argument, dir) || below(value, dir)
}

// End kills the processes until there is none, or ctx ends. A process that is being
// started while it looks is found when it looks again.
func End(ctx context.Context, dir string) error {
	for {
		found, err := Processes(dir)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, p := range found {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // the next look tells
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still running: %v: %w", found, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
