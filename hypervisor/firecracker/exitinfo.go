package firecracker

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/hypervisor"
)

// reapTime bounds the wait until the parent of a process that has ended has asked for
// its exit status. Most are adopted by an init, which does so at once.
const reapTime = 500 * time.Millisecond

// exitStateOf says how a process that is nobody's child here has ended. The kernel
// tells it to whoever has held a pidfd at the end, as soon as the process is reaped
// (PIDFD_INFO_EXIT, Linux 6.15); before that, only to the parent.
func exitStateOf(pidfd int) hypervisor.ExitState {
	// A pidfd hangs up when the process is reaped; older kernels do not say so.
	poll := []unix.PollFd{{Fd: int32(pidfd)}}
	for deadline := time.Now().Add(reapTime); ; {
		_, err := unix.Poll(poll, int(max(0, time.Until(deadline)).Milliseconds()))
		if err != unix.EINTR {
			break
		}
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return hypervisor.ExitState{}
	}
	return exitState(syscall.WaitStatus(info.Exit_code))
}

// exitState puts a status of wait(2) into words.
func exitState(status syscall.WaitStatus) hypervisor.ExitState {
	if status.Signaled() {
		return hypervisor.ExitState{Known: true, Signal: status.Signal()}
	}
	return hypervisor.ExitState{Known: true, Code: status.ExitStatus()}
}
