package kernel

import (
	"fmt"
	"os"
	"syscall"
)

// Requests of /dev/kvm (include/uapi/linux/kvm.h).
const (
	kvmCreateVM   = 0xae01
	kvmCreateVCPU = 0xae41
	kvmGetTSCKHz  = 0xaea3
)

// TSCHz asks KVM how often the cycle counter of a guest ticks per second, unless
// its VMM scales it. It makes a virtual machine without memory for that and drops
// it again. It fails where /dev/kvm cannot be used, and on processors other than
// x86-64, which have no such counter.
func TSCHz() (uint64, error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("frequency of the cycle counter: %w", err)
	}
	defer kvm.Close()
	fd := kvm.Fd()
	for _, request := range []uintptr{kvmCreateVM, kvmCreateVCPU} {
		made, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, 0)
		if errno != 0 {
			return 0, fmt.Errorf("frequency of the cycle counter: KVM request %#x: %w", request, errno)
		}
		defer syscall.Close(int(made))
		fd = made
	}
	khz, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, kvmGetTSCKHz, 0)
	if errno != 0 {
		return 0, fmt.Errorf("frequency of the cycle counter: KVM_GET_TSC_KHZ: %w", errno)
	}
	return uint64(khz) * 1000, nil
}
