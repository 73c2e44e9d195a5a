// Package procstat reads /proc/<pid>/stat (proc_pid_stat(5)).
//
// The package owns nothing and has no state.
package procstat

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Stat is what is read of the file.
type Stat struct {
	// MinorFaults and MajorFaults count the page faults that the kernel handled
	// for the process, without and with I/O: fields 10 and 12.
	MinorFaults, MajorFaults uint64
	// StartTime is when the process started, in clock ticks since the host
	// booted: field 22. With the pid it identifies a process.
	StartTime uint64
}

// Read reads the file of a process. The error wraps fs.ErrNotExist when there is no
// such process.
func Read(pid int) (Stat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, fmt.Errorf("status of process %d: %w", pid, err)
	}
	stat, err := parse(string(text))
	if err != nil {
		return Stat{}, fmt.Errorf("status of process %d: %w", pid, err)
	}
	return stat, nil
}

// parse finds the fields. Field 2, the program's name, stands in parentheses and may
// hold anything, spaces and parentheses included: what follows the last one is counted.
func parse(text string) (Stat, error) {
	behind := strings.LastIndexByte(text, ')') + 1
	fields := strings.Fields(text[behind:])
	var stat Stat
	var errs []error
	field := func(number int, value *uint64) {
		i := number - 3 // fields 1 and 2 are cut off, and counting starts at 1
		if behind == 0 || i >= len(fields) {
			errs = append(errs, fmt.Errorf("field %d is missing", number))
			return
		}
		var err error
		if *value, err = strconv.ParseUint(fields[i], 10, 64); err != nil {
			errs = append(errs, fmt.Errorf("field %d: %w", number, err))
		}
	}
	field(10, &stat.MinorFaults)
	field(12, &stat.MajorFaults)
	field(22, &stat.StartTime)
	return stat, errors.Join(errs...)
}
