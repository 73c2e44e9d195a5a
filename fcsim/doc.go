// Package fcsim simulates the Firecracker process: the same command line, the
// same HTTP API on a unix socket, the same roles of files, the same userfaultfd
// handshake and the same process life, without KVM. It mirrors the feature level
// of Firecracker 1.16. Its guest is not a CPU but a [guest.Workload]: threads
// that load and store real memory, so that every page fault is a real one.
//
// # States of a microVM
//
//	Not started ──InstanceStart, load + resume_vm──▶ Running
//	Not started ──load──▶ Paused
//	Running ──PATCH /vm Paused──▶ Paused ──PATCH /vm Resumed──▶ Running
//	Not started ──load that fails──▶ the process answers 400 and exits with 1
//	any ──SIGBUS on guest memory──▶ the process exits with 149
//
// Devices and machine are configured while Not started. A snapshot is created
// only while Paused and loaded only while Not started, before anything else but
// logger and metrics was configured.
//
// # Threads and locks
//
// Firecracker has one VMM thread that obeys API requests in order and emulates
// devices; here, whoever holds machine.mu is that thread. It is held through a
// pause that waits for vCPUs, through a snapshot, through the madvise of a
// balloon: as with Firecracker, the API then answers nobody. The vCPUs are
// goroutines locked to threads; their state is guarded by cpus.mu. Order:
// machine.mu before cpus.mu; metrics.mu and the log's lock come last. Nothing
// touches guest memory while it holds cpus.mu.
//
// # What the Go runtime must not do
//
// A goroutine that waits in a page fault looks to the runtime as if it ran: it
// keeps its P, and a stop of the world waits for it, for ever if its pager is
// gone. Hence, in a process that runs [Main]:
//
//   - The collector is off (with a memory limit far above need) and is called
//     where nobody is in guest memory: after a request while all vCPUs are
//     halted or parked, and between two commands of the guest.
//   - GOMAXPROCS is raised above vCPUs plus VMM threads before guest memory is
//     first touched. Setting it also stops the runtime from adjusting it by
//     itself later, which would stop the world.
//   - Threads block SIGURG while they may touch guest memory. The runtime preempts
//     with it what runs for 10 ms, and a signal makes a waiting fault return and
//     be queued a second time.
//   - Nothing reads runtime.MemStats or changes limits later: both stop the world.
//   - The same threads turn SIGBUS into a panic (debug.SetPanicOnFault), which
//     ends the process with Firecracker's code.
//
// # Differences from Firecracker, on purpose
//
//   - GET / says app_name "fcsim", and --version and --snapshot-version name
//     fcsim: its snapshots and Firecracker's cannot be mixed up.
//   - No tap is opened: host_dev_name of a network interface is only recorded.
//   - Drives are opened but never read; vsock connections are accepted and
//     closed, as a guest without listeners would do.
//   - The kernel image is opened but not loaded; boot_args carry the workload.
//   - MMDS, entropy, pmem, serial, cpu-config, memory hotplug, hot(un)plug of
//     devices, free page hinting and reporting are not simulated. The balloon
//     accepts the latter two, as the device does for a guest without the feature.
//   - Where only user-mode faults may be trapped, userfaultfd is opened in that
//     form: all accesses of this guest are user-mode ones.
//   - The guest's RAM has the x86 layout on every architecture, and a workload's
//     addresses skip the hole below 4 GiB: they are offsets into RAM.
//
// The userfaultfd and the connection to the pager are kept until the process
// ends, so that a pager which died can be replaced by one that takes the
// descriptor from this process.
//
// The package touches no files but those that its API names, and no process but
// itself.
package fcsim
