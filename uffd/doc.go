// Package uffd is the kernel interface of userfaultfd(2) in pure Go: opening a
// descriptor, the API handshake, registration, installing pages, reading fault
// messages, passing a descriptor to another process and taking one back.
//
// The package has no policy: it never retries, never decides what a page holds,
// and never touches registered memory. What the kernel answered comes back as a
// typed [Result]; what to do about it is the caller's business.
//
// # Ownership
//
// An [FD] owns its descriptor number and an [Event] owns its eventfd. Both count
// their users: Close forbids new calls at once, and the number is given back to
// the kernel when the last call in progress has left, so that a number is never
// reused under a running ioctl. There is no finalizer: closing the last
// descriptor of a userfaultfd hands zero pages to whoever waits in a fault, which
// must never depend on the garbage collector.
//
// # Locks
//
// There are none; the user count of a descriptor is one atomic word. All methods
// may be called from several goroutines at once.
//
// # What a caller must not do
//
// The memory that a descriptor serves must belong to another process. A
// goroutine that faults holds its P until the fault is answered, which stops the
// collector and with it the handler that should answer. For the same reason the
// source of [FD.Copy] must not be registered with any userfaultfd that this
// process serves.
//
// # Blocking
//
// Descriptors are non-blocking. O_NONBLOCK is a flag of the open file and not of
// the descriptor, so whoever else holds the file can clear it. Every system call
// here is therefore an ordinary one, which the Go scheduler knows may block: such
// a peer can hold up the goroutines of its own session and nothing else.
//
// # Names
//
// Constants keep the names that linux/userfaultfd.h gives them, so that they can
// be looked up in the kernel's documentation.
package uffd
