// Package hypervisor is the boundary between Faultline and the programs that run
// microVMs. It says what a microVM can be asked to do and leaves open who does
// it: package hypervisor/firecracker drives a real Firecracker and the simulator
// fcsim through one implementation, because both speak the same API, and package
// hypervisor/contract is the suite of tests that an implementation must pass.
//
// # Vocabulary
//
// An instance is one managed microVM; it has a directory. A [VMM] is the process
// that runs an instance at one point of its life. An instance outlives its VMMs:
// a captured instance has none, and each restore gives it a new one. The VMM's
// working directory is the instance's directory, and every path that the guest's
// devices use (disks, the vsock socket) is relative to it. Firecracker records
// these paths in the VM state as they were given, so the same state restored in
// another directory opens that directory's disks and binds that directory's
// sockets: a fork needs no patched state, no symbolic link and no mount.
//
// # Life of a VMM
//
//	Boot ────────────────────────► Running ⇄ Paused ──► exited
//	Restore ──► Paused or Running ────┘
//
// [Hypervisor.Boot] and [Hypervisor.Restore] return when the microVM runs, or,
// for a restore without Resume, when it is paused with its state loaded. Pause
// and Resume may be repeated. A snapshot needs a paused microVM and leaves it
// paused. Kill works in every state and is the only way out of a VMM whose
// threads wait for a page that nobody serves. A VMM may also exit by itself, when
// the guest reboots or when the VMM gives up; Exited tells.
//
// A VMM is a process of its own session. It does not die with the program that
// started it, which may be replaced while its guests run on; [Hypervisor.Attach]
// takes up a VMM that an earlier program started.
//
// # Memory
//
// A snapshot writes two files: the VM state, and the memory file, which holds
// guest memory region after region without gaps. A Full snapshot writes every
// page. A Diff snapshot writes the pages that changed since the last snapshot and
// leaves holes in between; it can do so exactly only for a microVM that was booted
// or restored with TrackDirtyPages, which a snapshot does not remember and which
// must be asked for at each restore. A memory file that already exists with the
// right size is written in place: never name a file that another VMM maps or a
// pager reads.
//
// On restore, memory comes from a file that the VMM maps privately, or from a
// pager listening on a unix socket, which receives a userfaultfd and serves each
// page when it is first touched. The pager must serve before Restore returns,
// because the VMM itself touches guest memory while it restores devices.
//
// # Errors
//
// An error names the file, field or version it is about and what to do. An
// operation that fails while it starts a VMM leaves no process, no socket and no
// open descriptor behind. The same holds when its context ends: the VMM is killed
// and reaped before the call returns.
//
// # Example
//
// Capture a running guest and restore it in a second directory, lazily, through a
// pager that listens on session.sock:
//
//	vmm, err := hv.Boot(ctx, hypervisor.BootSpec{
//		Process: hypervisor.Process{Dir: "/var/lib/faultline/instances/a"},
//		Kernel:  "/srv/vmlinux", BootArgs: "console=ttyS0",
//		VCPUs:   1, MemoryMiB: 128, TrackDirtyPages: true,
//	})
//	…
//	err = vmm.Pause(ctx)
//	err = vmm.Snapshot(ctx, hypervisor.SnapshotSpec{Kind: hypervisor.Full, StatePath: "vmstate", MemoryPath: "memory"})
//	err = vmm.Resume(ctx)
//	…
//	fork, err := hv.Restore(ctx, hypervisor.RestoreSpec{
//		Process:   hypervisor.Process{Dir: "/var/lib/faultline/instances/b"},
//		StatePath: "vmstate",
//		Memory:    hypervisor.Memory{Backend: hypervisor.Uffd, Path: "/run/session.sock"},
//		Resume:    true,
//	})
//
// The package holds no locks and no state; a [Console] owns the file it reads.
package hypervisor

import "context"

// Hypervisor starts VMMs of one kind. Its methods are safe for concurrent use.
type Hypervisor interface {
	// Describe says which program runs the microVMs. It does no I/O.
	Describe() Description
	// Boot starts a VMM in spec.Dir and boots a guest in it. The directory must
	// exist and no other VMM may run in it.
	Boot(ctx context.Context, spec BootSpec) (VMM, error)
	// Restore starts a VMM in spec.Dir and loads a snapshot into it. A load that
	// fails ends the VMM; there is no second attempt on the same process.
	Restore(ctx context.Context, spec RestoreSpec) (VMM, error)
	// Attach takes up a running VMM that an earlier program started. It fails
	// when the process is gone or its number now belongs to another process.
	Attach(ctx context.Context, ref ProcessRef) (VMM, error)
}

// Description says which program runs the microVMs.
type Description struct {
	// Name is "firecracker" or "fcsim".
	Name string
	// Binary is the path of the program.
	Binary string
	// Version is the program's version, like "v1.16.1".
	Version string
	// SnapshotVersion is the version of the VM states it writes, like "v10.0.0",
	// or empty where the program cannot tell. States of another major version
	// cannot be loaded.
	SnapshotVersion string
}

// VMM is one running hypervisor process and the microVM in it. Its methods are
// safe for concurrent use; Firecracker handles one request at a time, so a
// request waits for those before it.
type VMM interface {
	// Ref identifies the process for a later Attach.
	Ref() ProcessRef
	// State asks the VMM for the microVM's state.
	State(ctx context.Context) (State, error)
	// Pause stops the vCPUs. Pausing a paused microVM does nothing.
	Pause(ctx context.Context) error
	// Resume lets the vCPUs run. Resuming a running microVM does nothing.
	Resume(ctx context.Context) error
	// Snapshot writes the paused microVM to files. Both files are synced to disk
	// when it returns.
	Snapshot(ctx context.Context, spec SnapshotSpec) error
	// SetBalloon sets how many MiB of memory the guest is asked to give back. It
	// returns when the target is set, not when the guest has complied.
	SetBalloon(ctx context.Context, mib int) error
	// Send types bytes into the guest's serial console. The VMM must have been
	// started with Process.Input. What the guest does not read in time (64 KiB)
	// is refused with an error, never dropped silently.
	Send(input []byte) error
	// Console opens the serial output at the given byte of console.log, or, when
	// offset is negative, where this VMM began to write. The caller closes it.
	Console(offset int64) (*Console, error)
	// Exited is closed when the process is gone and, where it was a child, reaped.
	Exited() <-chan struct{}
	// ExitState says how the process ended. It is the zero value before that.
	ExitState() ExitState
	// Kill ends the process with SIGKILL and waits until it is gone or ctx ends.
	// Killing an exited VMM does nothing.
	Kill(ctx context.Context) error
}
