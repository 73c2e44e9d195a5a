package uffd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Permission is something that lets a process make a userfaultfd.
type Permission string

// The permissions. For a descriptor that sees all faults one of the first three
// suffices; a filter stands above them all.
const (
	// DeviceFile is read and write permission on /dev/userfaultfd.
	DeviceFile Permission = "file permission of /dev/userfaultfd"
	// CapSysPtrace is the capability, in the initial user namespace.
	CapSysPtrace Permission = "CAP_SYS_PTRACE"
	// UnprivilegedSysctl is the sysctl that lets everybody.
	UnprivilegedSysctl Permission = "vm.unprivileged_userfaultfd"
	// SyscallFilter is a seccomp filter, as container runtimes install it.
	SyscallFilter Permission = "seccomp filter of the container"
	// KernelConfig is CONFIG_USERFAULTFD.
	KernelConfig Permission = "CONFIG_USERFAULTFD of the kernel"
)

var remedies = map[Permission]string{
	DeviceFile:         "give the user read and write permission on /dev/userfaultfd, e.g. setfacl -m u:NAME:rw /dev/userfaultfd",
	CapSysPtrace:       "give the process CAP_SYS_PTRACE",
	UnprivilegedSysctl: "sysctl -w vm.unprivileged_userfaultfd=1",
	SyscallFilter:      "allow the userfaultfd system call in the container's seccomp profile, or pass /dev/userfaultfd into the container",
	KernelConfig:       "use a kernel that is built with CONFIG_USERFAULTFD",
}

// OpenError says that this process may not make a userfaultfd.
type OpenError struct {
	// UserModeOnly is what was asked for.
	UserModeOnly bool
	// Missing are the permissions of which any one would do. Never empty.
	Missing []Permission
	// Device is what /dev/userfaultfd answered.
	Device error
	// Syscall is what userfaultfd(2) answered.
	Syscall error
}

// Error names the missing permissions and, for each, how to get it.
func (e *OpenError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "make a userfaultfd: %s: %v, userfaultfd(2): %v; ", devicePath, e.Device, e.Syscall)
	what := "missing "
	if len(e.Missing) > 1 {
		what = "any one of these would do: "
	}
	b.WriteString(what)
	for i, p := range e.Missing {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s (%s)", p, remedies[p])
	}
	return b.String()
}

// Unwrap returns what the device and the system call answered.
func (e *OpenError) Unwrap() []error {
	return []error{e.Device, e.Syscall}
}

// circumstances are what a refusal is explained from.
type circumstances struct {
	userModeOnly bool
	device       error
	syscall      unix.Errno
	process      process
}

// process is what matters of a process's rights. A zero field means no or
// unknown.
type process struct {
	ptrace    bool // CAP_SYS_PTRACE in the initial user namespace
	unlimited bool // vm.unprivileged_userfaultfd is 1
	filtered  bool // a seccomp filter is installed
}

// diagnose finds out which permissions are missing. The kernel answers EPERM for
// want of a right, and a filter may answer EPERM or ENOSYS; a filter is to blame
// when no right is wanting.
func diagnose(c circumstances) *OpenError {
	e := &OpenError{UserModeOnly: c.userModeOnly, Device: c.device, Syscall: c.syscall}
	entitled := c.userModeOnly || c.process.ptrace || c.process.unlimited
	switch {
	case c.syscall == unix.ENOSYS && !c.process.filtered:
		e.Missing = []Permission{KernelConfig}
	case c.syscall == unix.ENOSYS, entitled:
		e.Missing = []Permission{SyscallFilter}
	default:
		e.Missing = []Permission{CapSysPtrace, UnprivilegedSysctl}
	}
	if errors.Is(c.device, unix.EACCES) || errors.Is(c.device, unix.EPERM) {
		e.Missing = append([]Permission{DeviceFile}, e.Missing...)
	}
	return e
}

// readProcess describes this process, with the rights of the calling thread. What cannot be read counts as absent: it
// only makes the advice of an error less exact.
func readProcess() process {
	status, _ := os.ReadFile("/proc/thread-self/status")
	uidMap, _ := os.ReadFile("/proc/self/uid_map")
	sysctl, _ := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	return parseProcess(string(status), string(uidMap), string(sysctl))
}

func parseProcess(status, uidMap, sysctl string) process {
	var p process
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "CapEff":
			caps, err := strconv.ParseUint(value, 16, 64)
			p.ptrace = err == nil && caps>>unix.CAP_SYS_PTRACE&1 == 1
		case "Seccomp":
			p.filtered = value != "0"
		}
	}
	// In any other user namespace the capability does not count.
	if strings.Join(strings.Fields(uidMap), " ") != "0 0 4294967295" {
		p.ptrace = false
	}
	p.unlimited = strings.TrimSpace(sysctl) == "1"
	return p
}
