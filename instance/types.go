package instance

import (
	"time"

	"github.com/faultline-vm/faultline/capture"
)

// State is what an instance is at a moment. It is derived from facts: the process
// and its start time, the answer of its API, the session in the pager, the newest
// capture. See [Allowed] for what may be done in each.
type State string

// The states.
const (
	Stopped  State = "stopped"  // no VMM, nothing to restore
	Starting State = "starting" // an operation is bringing up a VMM
	Running  State = "running"  // the guest's vCPUs run
	Paused   State = "paused"   // the VMM is there, the vCPUs stand still
	Standby  State = "standby"  // no VMM; the newest capture can be restored
	Stopping State = "stopping" // an operation is ending the VMM
	Failed   State = "failed"   // the VMM ended without being asked to
	Unknown  State = "unknown"  // the facts contradict each other, or cannot be had
)

// Backend says where the memory of a restored instance comes from.
type Backend string

// The backends.
const (
	File Backend = "file" // the VMM maps the flat image
	Uffd Backend = "uffd" // a session of the pager serves page faults
	Auto Backend = "auto" // whichever of the two is cheaper and possible
)

// Choice says which backend a restore used.
type Choice struct {
	Backend Backend `json:"backend"` // File or Uffd
	// Why is a sentence for people.
	Why string `json:"why"`
}

// Drive is a block device of an instance.
type Drive struct {
	// ID names the drive: 1 to 64 letters, digits and underscores. Its file in the
	// instance's directory is disks/<id>.
	ID string `json:"id"`
	// Source is the absolute path of the file that the drive was made from, at its
	// creation. A writable drive is a private copy of it; a read-only one shares
	// the file, which must not be written any more.
	Source string `json:"source"`
	// Root makes it the guest's root device. At most one drive may be it.
	Root bool `json:"root,omitempty"`
	// ReadOnly drives may be shared with other instances.
	ReadOnly bool `json:"read_only,omitempty"`
}

// Network is a network interface of an instance.
type Network struct {
	// ID names the interface: 1 to 64 letters, digits and underscores.
	ID string `json:"id"`
	// Tap is the host's tap device, 1 to 15 bytes. One that is named here must exist
	// when the VMM starts, and stays the caller's. Empty takes the name from the
	// configured template: such a tap is made when the VMM first starts, if the
	// Manager can, and removed with the instance.
	Tap string `json:"tap,omitempty"`
	// MAC is the guest's hardware address, or empty for the VMM's choice. Forks
	// keep it: a capture has it in the VM state.
	MAC string `json:"mac,omitempty"`
}

// Spec describes the machine of an instance. It does not change after the
// instance was created, but for the taps.
type Spec struct {
	// Kernel is the absolute path of an uncompressed kernel image. Kernel and
	// initrd are taken over when the instance is created, by a further name where
	// the filesystem allows it: they must not be written any more.
	Kernel string `json:"kernel"`
	// Initrd is the absolute path of an initial RAM disk, or empty.
	Initrd string `json:"initrd,omitempty"`
	// BootArgs is the kernel's command line; empty means the VMM's default.
	BootArgs string `json:"boot_args,omitempty"`
	// VCPUs is the number of virtual CPUs, 1 to 32.
	VCPUs int `json:"vcpus"`
	// MemoryBytes is the guest's memory: whole MiB, not more than the host has.
	MemoryBytes uint64 `json:"memory_bytes"`
	// HugePages backs the guest with 2 MiB pages of the host's pool. It can be
	// restored through the pager only.
	HugePages bool      `json:"huge_pages,omitempty"`
	Drives    []Drive   `json:"drives,omitempty"`
	Networks  []Network `json:"networks,omitempty"`
	// VsockCID gives the guest a vsock device of that context id, at least 3;
	// 0 gives none. The host's end is vsock.sock in the instance's directory.
	VsockCID uint32 `json:"vsock_cid,omitempty"`
	// Balloon gives the guest a balloon device.
	Balloon bool `json:"balloon,omitempty"`
	// IdentityAddress is the guest-physical address of the page where a fork finds
	// its identity (see [IdentityPage]): a multiple of 4096 below 3 GiB and below
	// the guest's memory. 0 means that the guest knows of no such page.
	IdentityAddress uint64 `json:"identity_address,omitempty"`
}

// Origin says what a fork was made from. The source may be gone.
type Origin struct {
	Instance string `json:"instance,omitempty"` // id
	Snapshot string `json:"snapshot,omitempty"` // id
	Capture  string `json:"capture"`            // id
}

// Instance describes an instance at a moment.
type Instance struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	// Reason says why the state is Failed or Unknown.
	Reason string `json:"reason,omitempty"`
	// Operation is the one under way that keeps others out, or empty.
	Operation Operation `json:"operation,omitempty"`
	// Dir is the instance's directory.
	Dir    string  `json:"dir"`
	Spec   Spec    `json:"spec"`
	Origin *Origin `json:"origin,omitempty"`
	// PID is the VMM's process, 0 without one.
	PID int `json:"pid,omitempty"`
	// Backend is what the VMM was restored with; nil if it was booted, or is gone.
	Backend *Choice `json:"backend,omitempty"`
	// Session is the id of the pager's session, or empty.
	Session string `json:"session,omitempty"`
	// Capture is the newest capture, or nil.
	Capture *capture.Record `json:"capture,omitempty"`
	// Warnings tell what went another way than wished in the last operation.
	Warnings []string `json:"warnings,omitempty"`
}

// Snapshot describes a snapshot.
type Snapshot struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Dir     string    `json:"dir"`
	// Instance is the id of the instance it was taken of, which may be gone, and
	// InstanceName the name it had then.
	Instance     string         `json:"instance"`
	InstanceName string         `json:"instance_name"`
	Spec         Spec           `json:"spec"`
	Capture      capture.Record `json:"capture"`
	// Layers is the number of layers of the memory image.
	Layers int `json:"layers"`
	// Broken says why the snapshot cannot be used; empty for one that can. A broken
	// one can only be deleted. Where its record cannot be read it has the id for a
	// name, and the rest is empty.
	Broken string `json:"broken,omitempty"`
	// Warnings tell what went another way than wished when it was made.
	Warnings []string `json:"warnings,omitempty"`
}
