package hypervisor

import (
	"errors"
	"fmt"
)

// Kind says which pages a snapshot's memory file holds.
type Kind string

// The kinds of snapshots, named as in Firecracker's API.
const (
	Full Kind = "Full" // every page
	Diff Kind = "Diff" // pages changed since the last snapshot; the rest are holes
)

// Backend says where a restored microVM's memory comes from.
type Backend string

// The memory backends, named as in Firecracker's API.
const (
	File Backend = "File" // the VMM maps a memory file privately
	Uffd Backend = "Uffd" // a pager behind a unix socket serves page faults
)

// State is the state of a microVM, spelled as Firecracker's API spells it.
type State string

// The states of a microVM.
const (
	NotStarted State = "Not started"
	Running    State = "Running"
	Paused     State = "Paused"
)

// HugePages says what page size backs guest memory.
type HugePages string

// The page sizes, named as in Firecracker's API.
const (
	NoHugePages HugePages = ""   // 4 KiB
	Huge2M      HugePages = "2M" // 2 MiB from the host's hugetlb pool; needs Firecracker 1.7
)

// Process says how the VMM process is run.
type Process struct {
	// Dir is the instance's directory: the VMM's working directory, in which it
	// makes firecracker.sock, console.log and vmm.log. It must exist.
	Dir string
	// Input gives the guest's serial console an input, see VMM.Send. Without it
	// the console reads nothing.
	Input bool
}

// ProcessRef identifies a VMM process across restarts of the program that
// started it. The start time tells it from a later process of the same number.
type ProcessRef struct {
	// Dir is the instance's directory.
	Dir string
	// PID is the process number in the caller's pid namespace.
	PID int
	// StartTime is the process's start in clock ticks after the host's boot,
	// field 22 of /proc/<pid>/stat.
	StartTime uint64
}

// BootSpec describes a microVM to boot. Paths are as the VMM sees them: relative
// ones start at Process.Dir.
type BootSpec struct {
	Process
	// Kernel is an uncompressed kernel image (an ELF file on x86).
	Kernel string
	// Initrd is an initial RAM disk, or empty.
	Initrd string
	// BootArgs is the kernel's command line; empty means the VMM's default.
	BootArgs string
	// VCPUs is the number of virtual CPUs, 1 to 32.
	VCPUs int
	// MemoryMiB is the size of guest memory, a multiple of 2 with Huge2M.
	MemoryMiB int
	// HugePages is the page size that backs guest memory.
	HugePages HugePages
	// TrackDirtyPages makes later Diff snapshots exact and cheap.
	TrackDirtyPages bool
	// Drives are the block devices, in the guest's order.
	Drives []Drive
	// Networks are the network interfaces.
	Networks []Network
	// Vsock is the virtio socket device, or nil.
	Vsock *Vsock
	// Balloon is the balloon device, or nil. Without one SetBalloon fails, also
	// after a restore.
	Balloon *Balloon
}

// Drive is a block device backed by a file.
type Drive struct {
	// ID names the drive: letters, digits and underscores.
	ID string
	// Path is the backing file.
	Path string
	// Root makes it the guest's root device. At most one drive may be it.
	Root bool
	// ReadOnly opens the file read-only.
	ReadOnly bool
}

// Network is a network interface backed by a tap device.
type Network struct {
	// ID names the interface: letters, digits and underscores.
	ID string
	// Tap is the name of the host's tap device.
	Tap string
	// GuestMAC is the guest's hardware address, or empty for none set.
	GuestMAC string
}

// Vsock is a virtio socket device.
type Vsock struct {
	// GuestCID is the guest's context id, at least 3.
	GuestCID uint32
	// Path is the unix socket that the VMM makes for host-side connections.
	Path string
}

// Balloon is a balloon device.
type Balloon struct {
	// TargetMiB is how much memory the guest is asked to give back at boot.
	TargetMiB int
	// DeflateOnOOM lets the guest take memory back when it runs out.
	DeflateOnOOM bool
	// StatisticsSeconds is the interval of guest statistics; 0 turns them off
	// for the whole life of the microVM, its restores included.
	StatisticsSeconds int
	// Reporting lets the guest report free pages on its own. Firecracker 1.14.
	Reporting bool
}

// SnapshotSpec says what to write and where. Paths are as the VMM sees them.
type SnapshotSpec struct {
	// Kind says which pages the memory file holds.
	Kind Kind
	// StatePath is the file for the VM state. An existing file is truncated.
	StatePath string
	// MemoryPath is the memory file. An existing file of the right size is
	// written in place, one of another size truncated first.
	MemoryPath string
}

// RestoreSpec describes a snapshot to load. Paths are as the VMM sees them.
type RestoreSpec struct {
	Process
	// StatePath is the VM state to load. It is trusted input: a checksum guards
	// it against accidents, nothing guards it against an attacker.
	StatePath string
	// Memory says where the memory comes from.
	Memory Memory
	// TrackDirtyPages makes later Diff snapshots exact; a snapshot does not
	// remember it.
	TrackDirtyPages bool
	// Resume lets the microVM run as soon as it is loaded, in the same request.
	Resume bool
	// NetworkOverrides gives interfaces of the snapshot other taps. Firecracker 1.12.
	NetworkOverrides []NetworkOverride
	// VsockOverride replaces the path of the vsock socket; empty keeps it.
	// Firecracker 1.16.
	VsockOverride string
	// ClockRealtime advances the guest's kvm-clock by the time that has passed
	// since the snapshot. x86 with host kernel 5.16, Firecracker 1.16.
	ClockRealtime bool
}

// Memory says where a restored microVM's memory comes from.
type Memory struct {
	Backend Backend
	// Path is the memory file for File, the pager's socket for Uffd.
	Path string
}

// NetworkOverride gives an interface of a snapshot another tap.
type NetworkOverride struct {
	ID  string
	Tap string
}

// maxSocketPath is what fits into sun_path with its terminating zero byte
// (unix(7)); Firecracker connects and binds with the path as given.
const maxSocketPath = 107

// Validate reports everything that is wrong with the process settings.
func (p Process) Validate() error {
	if p.Dir == "" {
		return errors.New("no directory for the VMM: name the instance's directory")
	}
	return nil
}

// Validate reports everything that can be known to be wrong before a VMM runs.
func (s BootSpec) Validate() error {
	errs := []error{s.Process.Validate()}
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Kernel == "" {
		fail("no kernel image: name an uncompressed kernel")
	}
	if s.VCPUs < 1 || s.VCPUs > 32 {
		fail("%d vCPUs: use 1 to 32", s.VCPUs)
	}
	if s.MemoryMiB < 1 {
		fail("%d MiB of memory: use at least 1", s.MemoryMiB)
	}
	switch s.HugePages {
	case NoHugePages:
	case Huge2M:
		if s.MemoryMiB%2 != 0 {
			fail("%d MiB of memory is not a whole number of 2 MiB pages: use an even size", s.MemoryMiB)
		}
	default:
		fail("huge pages %q: use %q or none", s.HugePages, Huge2M)
	}
	if v := s.Vsock; v != nil {
		if v.GuestCID < 3 {
			fail("vsock guest id %d is reserved: use 3 or above", v.GuestCID)
		}
		if len(v.Path) > maxSocketPath {
			fail("vsock path %q is longer than the %d bytes of a socket address: use one relative to the instance's directory", v.Path, maxSocketPath)
		}
	}
	if b := s.Balloon; b != nil && (b.TargetMiB < 0 || b.TargetMiB > s.MemoryMiB) {
		fail("balloon of %d MiB in a guest of %d MiB: use 0 to the guest's size", b.TargetMiB, s.MemoryMiB)
	}
	return errors.Join(errs...)
}

// Validate reports everything that is wrong with the request.
func (s SnapshotSpec) Validate() error {
	var errs []error
	if s.Kind != Full && s.Kind != Diff {
		errs = append(errs, fmt.Errorf("snapshot kind %q: use %s or %s", s.Kind, Full, Diff))
	}
	if s.StatePath == "" || s.MemoryPath == "" {
		errs = append(errs, errors.New("a snapshot needs a path for the VM state and one for the memory"))
	}
	return errors.Join(errs...)
}

// Validate reports everything that can be known to be wrong before a VMM runs.
func (s RestoreSpec) Validate() error {
	errs := []error{s.Process.Validate()}
	if s.StatePath == "" {
		errs = append(errs, errors.New("no VM state to restore: name the capture's state file"))
	}
	switch s.Memory.Backend {
	case File:
	case Uffd:
		if len(s.Memory.Path) > maxSocketPath {
			errs = append(errs, fmt.Errorf("pager socket %q is longer than the %d bytes of a socket address: use a shorter data directory",
				s.Memory.Path, maxSocketPath))
		}
	default:
		errs = append(errs, fmt.Errorf("memory backend %q: use %s or %s", s.Memory.Backend, File, Uffd))
	}
	if s.Memory.Path == "" {
		errs = append(errs, errors.New("no path for the memory backend: name the memory file or the pager's socket"))
	}
	if len(s.VsockOverride) > maxSocketPath {
		errs = append(errs, fmt.Errorf("vsock path %q is longer than the %d bytes of a socket address: use one relative to the instance's directory",
			s.VsockOverride, maxSocketPath))
	}
	return errors.Join(errs...)
}
