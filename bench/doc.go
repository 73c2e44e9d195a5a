// Package bench measures what the project promises about its speed and size, and
// says how each figure came about.
//
// A group is a set of cases that are measured together; [Run] measures one and
// returns a [Report]. Nothing here is a test: a limit that is not kept is a row of
// the report and not an error. Times are compared as ratios of one run, never with
// a number from another machine.
//
// # Group fault
//
// fault_vs_c is one warm demand fault as the faulting thread sees it: the median of
// faultline-pager, a process of its own, divided by that of the smallest handler in
// C (package ref). Both serve processes of the same program with the same pages,
// through the same handshake: a VMM in C, since a VMM has no runtime beside its guest,
// or where no compiler is there one in Go. VMMs and handlers are sessions of their own,
// as they are in earnest. Warm means that no disk is involved: the pager has
// the image in its page cache since an earlier session, and copies from there; the
// handler in C has all of the file mapped and present. The method is a contest in
// turns; its type says how noise is kept from favouring one of them. A turn gives
// one ratio of medians, and the case is the median of those.
//
// naive_fault_vs_c is the same for a pager as one writes it first, in Go: one
// message per read, one read of the file per fault, one copy. It runs in this process
// and has rounds of its own with the handler in C, and no limit.
//
// fault_p50 and fault_p99 are the pager's own figures in its rounds. They say
// what the host's scheduler does to a wake-up at least as much as what the pager
// does, and have no limit either.
//
// fault_allocs is the number of heap objects that the pager's process allocates per
// fault.
//
// pager_memory_mib is the largest difference of the pager's resident memory and
// what its page cache holds that was seen while 25 forks of a 1 GiB guest restored,
// checked and rewrote 64 MiB each; every page must have been right.
//
// # Group recovery
//
// 100 processes have a session each at one pager. For readopt_ms and kill_stall_ms it
// is killed with SIGKILL, each process touches an absent page at once, and a supervisor
// starts the next pager. For upgrade_stall_ms all sessions are handed over between two
// live pagers, while two of the processes touch one absent page after the other. At the
// end every byte of all processes is compared. kills_wrong_pages and kills_lost_vms are
// about bursts of 25 forks of the demonstration whose pager is killed at random moments.
//
// # Group manager
//
// The daemon is a process of its own, asked through its API and, for ps_ms, through
// the command line. daemon_start_s is the time from its start to its first answer with
// 1,000 instances in standby, daemon_memory_mib the most memory that it had resident
// then, and ps_ms the whole run of `faultline ps`. forks_failed counts those of 100
// forks of one snapshot, requested at once, that did not come to run, or found a page
// of their memory wrong.
//
// # Ownership
//
// A run owns every process, socket and file that it makes, in one directory, and
// ends or removes them before it returns, also when its context ends. The memory
// that faults belongs to processes of package faulter, so the program must call
// faulter.Main first. There are no locks.
package bench
