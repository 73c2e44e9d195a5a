// Package stage keeps captures of running microVMs in memory until they are sealed
// on disk, so that neither the disk nor the VMM's fsyncs lie inside the guest's
// pause.
//
// An [Area] is a directory on tmpfs and a budget for all captures in it. A capture
// that fits begins a [Stage], lets the VMM write its files there, resumes the guest
// and then seals; one that does not fit is told so ([NoRoomError]) and goes straight
// to disk. A stage's states:
//
//	begun      room is reserved; the VMM may write
//	settled    the VMM has finished; the reservation is what was written
//	discarded  the files and the reservation are gone
//
// A stage counts as a capture only when Seal has succeeded, which may be tried any
// number of times before Discard. Until then the memory of the host is its only
// place: it is for VMs that run on, never for one that is going to be killed. What
// a crash leaves is removed when the area is opened again, and the VM's next
// capture must be a full one, for its dirty pages were reset.
//
// The package owns the area's directory and everything below, and holds a lock on
// it (flock) from Open to Close. It writes nothing elsewhere but through
// [memimage.Seal] and [memimage.Copy]. The only mutex is that of Area; it is a
// leaf. Under it nothing but files on tmpfs is looked at.
//
// Pages of tmpfs are charged to the memory cgroup of the process that writes them:
// a VMM with a limit of its own needs room for its capture within that limit.
package stage
