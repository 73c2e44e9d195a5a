// Package chaos does to pagers what must not harm a guest, in every combination,
// and looks whether it did.
//
// A [Cell] is one combination: an event, the size of the guest's pages, whether its
// balloon inflates, its vCPUs, what the guests and the pager are doing meanwhile, and
// the program that runs the microVMs. [Run] runs cells one after the other and
// returns a [Report].
//
// # What a cell is
//
//	pagers start ─▶ forks of one capture restore, and check and rewrite their memory
//	             └▶ a witness touches one absent page after the other
//	event, at a moment that the seed decides
//	each fork checks all of its memory once more ─▶ VMMs are killed ─▶ pagers drain
//
// The cell has passed if every fork ran to the end, found every page right each time
// and saw its own identity page; if the witness's memory is the image's, byte for
// byte; if after the end of the VMMs no session is left at any pager, every pager has
// no more descriptors open than before the first session, and drains; and if then no
// process, socket or journal is left.
//
// The witness is a process whose memory a session of the same pager serves. It reads
// the clock around each access, so its longest access is what a thread of a guest
// would have waited: the cell's worst stall.
//
// A restore whose pager dies before it has written down whose memory it serves is
// begun again, as an orchestrator does; the VM of it never ran.
//
// # Ownership
//
// A run owns every process, socket and file that it makes, in one directory, and ends
// or removes them before it returns, also when its context ends. It enlarges the
// host's pool of huge pages while it runs, where it may. The program must call
// faulter.Main first: the witness is that program once more.
//
// The locks here are leaves; none is held across I/O.
package chaos
