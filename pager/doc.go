// Package pager serves the page faults of microVMs that were restored lazily.
//
// A [Pager] holds sessions, one per restored VMM. A session is created with a
// memory image and gives a unix socket; the VMM connects to it while it loads its
// snapshot, hands over its userfaultfd and says where its memory lies, and from
// then on each page that the guest touches first comes from the image. The pager
// serves before the VMM's load returns, because loading touches guest memory.
//
// Three things can happen to a fault:
//
//   - the page is zero in the image, was given away by the guest, is an overlay or
//     lies in the shared page cache: the fault loop answers it at once;
//   - the page must be read, and the kernel has it in its page cache: likewise,
//     through a read that does not wait (RWF_NOWAIT);
//   - it must come from a disk: a worker of the session reads it and answers.
//
// A page is served right or not at all. When a page cannot be read, after some
// repetitions and from no other owner's copy of the layer, the VMM is killed through
// its pidfd and the session fails with the reason. It never gets zeros, and is never
// left frozen.
//
// # Reading order
//
//	pager.go       the registry of sessions
//	session.go     the life of one session
//	accept.go, handshake.go, reception.go, arrival.go   how a VMM arrives
//	faultloop.go, install.go, parked.go, pagestate.go   how its faults are answered
//	miss.go, source.go, copies.go, cache.go, huge.go   where pages come from
//	journal.go, adopt.go, deposit.go, handover.go, detach.go   how a session outlives its pager
//	handler.go, main.go, directory.go, heartbeat.go, drain.go   the process around it
//
// # Locks
//
// Pager.mu before session.mu; session.order before missQueue.mu; the locks of
// cache shards, of parkedPages and of deposits are leaves. The fault path takes
// session.order and leaves only, and holds none of them across I/O. It does not
// allocate.
//
// # Bounds
//
// The package may not import anything that starts VMMs or knows instances. It
// makes no network connection. It opens files for reading only, but for its
// sockets, its lock and its log in {data_dir}/uffd/{version}.
package pager
