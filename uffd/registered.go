package uffd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Registered reports whether any memory of process pid is registered for missing
// pages, that is whether the process waits for a handler where it touches a page that
// it does not have. It reads /proc/pid/smaps, for which the kernel walks the page
// tables of the process: some milliseconds for each GiB of small pages. It needs the
// permission to trace the process. The error wraps [ErrGone] when there is no such
// process.
func Registered(pid int) (bool, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrGone
	}
	if err != nil {
		return false, fmt.Errorf("looking for registered memory of process %d: %w", pid, err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// The flags of proc_pid_smaps(5): "um" is userfaultfd missing tracking.
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && strings.Contains(flags+" ", " um ") {
			return true, nil
		}
	}
	err = lines.Err()
	if errors.Is(err, unix.ESRCH) {
		err = ErrGone
	}
	if err != nil {
		return false, fmt.Errorf("looking for registered memory of process %d: %w", pid, err)
	}
	return false, nil
}
