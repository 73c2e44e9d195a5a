package hypervisor

import (
	"fmt"
	"syscall"
)

// ExitState says how a VMM ended.
type ExitState struct {
	// Known is false while the process runs, and before Linux 6.15 for a process that
	// was not a child of this program: the kernel told its exit status to its parent
	// only.
	Known bool
	// Code is the exit code where Signal is 0. Firecracker's own: 0 after the
	// guest rebooted, 1 after a failed load, 148 after a forbidden system call,
	// 149 after SIGBUS, 152 and 153 for bad configuration and arguments.
	Code int
	// Signal is the signal that ended the process, or 0.
	Signal syscall.Signal
}

// String says it in words for an error message.
func (e ExitState) String() string {
	switch {
	case !e.Known:
		return "exit status unknown"
	case e.Signal != 0:
		return "killed by signal " + e.Signal.String()
	default:
		return fmt.Sprintf("exit code %d", e.Code)
	}
}
