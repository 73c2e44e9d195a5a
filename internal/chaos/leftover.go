package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// checkLeftovers looks for what a cell must not leave: processes of its directory, and
// sockets and journals below it.
func checkLeftovers(dir string) error {
	processes, err := processesOf(dir)
	if err != nil {
		return err
	}
	if len(processes) > 0 {
		return fmt.Errorf("still running: %v", processes)
	}
	var files []string
	sessions := filepath.Join(dir, "data", "uffd", "*", "sessions")
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		journal, _ := filepath.Match(filepath.Join(sessions, "*"), path)
		pagers := strings.HasPrefix(path, filepath.Join(dir, "data"))
		if journal || pagers && entry.Type()&fs.ModeSocket != 0 {
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) > 0 {
		err = fmt.Errorf("left behind: %s", strings.Join(files, ", "))
	}
	return err
}

// endProcessesOf kills what still works below a cell's directory, which is nobody else's:
// a pager that a supervisor was just starting when it was released, for one.
func endProcessesOf(ctx context.Context, dir string) {
	for {
		found, err := processesOf(dir)
		if err != nil || len(found) == 0 {
			return
		}
		for _, p := range found {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if sleep(ctx, 5*patience) != nil {
			return
		}
	}
}

// process is one that was found in a cell's directory.
type process struct {
	pid       int
	arguments string
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, p.arguments) }

// processesOf returns the processes that work below dir or name it in their arguments.
func processesOf(dir string) (found []process, err error) {
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
		if below(cwd, dir) || slices.ContainsFunc(bytes.Split(arguments, []byte{0}), func(a []byte) bool { return below(string(a), dir) }) {
			found = append(found, process{pid, string(bytes.ReplaceAll(arguments, []byte{0}, []byte{' '}))})
		}
	}
	return found, nil
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
