// Package instance manages the microVMs of one host through their whole life: it
// creates, starts, stops, pauses, parks, restores, forks, snapshots and deletes
// them, and knows the truth about each of them again after it was killed.
//
// # On disk
//
//	VERSION  lock
//	instances/<id>/            the VMM's working directory
//	  instance.json            the record
//	  kernel  initrd  disks/   names of its own for what it boots from
//	  captures/<id>/           the newest capture, see package capture
//	  firecracker.sock console.log vmm.log vsock.sock
//	snapshots/<id>/            snapshot.json, kernel, initrd, and the layout of a capture
//
// Whatever is being made or removed has a name that begins with a dot, beside the
// name that it is going to have or had. Who opens the directory next removes it.
//
// # States
//
// The state of an instance is derived from facts and never only remembered: the
// process of the recorded number and start time, the answer of its API, the session
// that the pager has for it, the capture that the record names. [Outcome] is the
// table of what may be done in each state, and where it leads. All instances are
// looked at every 400 ms; each question to a VMM or the pager takes a second at most,
// so that one that does not answer is [Unknown] within two. It stays so until the
// facts agree again.
//
// # Operations
//
// An operation is a list of steps; see operationSteps for all of them. Its first
// change on disk is the intent in the record (or, for what does not exist yet, a
// directory with a dot), the last one the record without it:
//
//	record ──intent──▶ record + pending phase ──…──▶ record
//
// A step that fails, or a context that ends, undoes what the steps before have made,
// in reverse order. Some operations have a point of no return: a stop, when the
// intent is recorded; a standby, when the record names the capture. The steps behind
// it are repeated until they succeed, by the operation itself, the watcher, or the
// next start. When a manager dies instead, the phase tells the next one what to undo
// or finish; a VMM that no record names is found by its working directory.
//
// VMMs are started in sessions of their own and outlive the manager, as the pager
// does.
//
// In the background the images of newest captures and of snapshots get checksums, and
// deep ones become flat; see upkeep. It is no operation: nobody who has an image open,
// or forks it at that moment, notices.
//
// # Locks
//
// An entry's gate is held alone by operations that change the instance and shared by
// those that only use its files; it is held across I/O and waited for with the
// caller's context. Order: the gate of a snapshot behind that of an instance; no two
// gates of instances, except that a fork's is taken while its source's is held, when
// nobody else can know the fork; the upkeep holds one gate at a time. Manager.mu,
// entry.mu, the broker's, the session view's, the pager set's, and those of counts and
// upkeep are leaves in this order, held for a moment, never across I/O.
//
// # Rules
//
// Nothing refers to another owner's directory: forks and snapshots have names of
// their own for all they need. Writable disks are private copies from the beginning,
// and a file that some instance writes to is refused as a source. The package makes
// no taps and changes no network.
package instance
