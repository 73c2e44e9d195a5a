// Package firecracker runs microVMs with Firecracker or with fcsim, its
// simulator. The two speak the same API and take the same arguments, so there is
// one driver; [Choose] says which of them this host can run.
//
// The package has three layers, usable one by one. [Client] is a typed client of
// the API on the VMM's unix socket. [Start] and [Attach] turn a process into a
// [VMM], which knows when the process ends and how to end it. [Driver] boots and
// restores microVMs and is a hypervisor.Hypervisor.
//
// # Files of a VMM
//
// A VMM runs in its instance's directory and makes there:
//
//	firecracker.sock   the API
//	console.log        what the guest writes on its serial port; appended to
//	console.in         a named pipe, what the guest reads there; only with Input
//	vmm.log            the VMM's standard error; appended to
//	firecracker.log    the VMM's own log, from the start of this VMM on
//
// The log has a file of its own because Firecracker otherwise logs to standard
// output, in the middle of the guest's lines, and because it writes its log file
// without O_APPEND, so that nothing else may write to it.
//
// # Seccomp
//
// No flag is passed about seccomp. Release builds carry filters; a build for a
// target without them (GNU libc) carries a filter that allows everything, and
// runs just as well. [Config.ExtraArgs] takes --no-seccomp for builds that do not.
//
// # Versions
//
// Firecracker rejects fields it does not know, so newer fields are sent only when
// they are needed, and a [Feature] that the binary's version lacks is refused
// before a request is made, with an [UnsupportedError] that names both versions.
//
// # Ownership and locks
//
// A [VMM] owns a pidfd and one goroutine, both until the process ends. There are
// no locks: what is known of an ended process is written before Exited closes.
package firecracker
