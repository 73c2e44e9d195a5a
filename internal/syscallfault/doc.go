// Package syscallfault lets tests fail the system calls of real code, one at a
// time: the code runs on a thread whose calls the kernel asks this package about
// (seccomp user notification, Linux 5.19).
//
// The thread belongs to one call of [Run] and ends with it. Only that thread is
// affected, not the rest of the process. [Deny] is for all of a process that a test
// starts. The package is for tests alone, holds no locks and has no state.
package syscallfault

import "errors"

// ErrUnsupported: the kernel, or a sandbox around the process, has no seccomp
// notifications.
var ErrUnsupported = errors.New("seccomp user notification is not available; use Linux 5.19 or later outside of a sandbox that filters seccomp(2)")

// Call is one system call that changes files and is about to be made.
type Call struct {
	// Name is the kernel's name of the call, such as "fsync".
	Name string
	// Path is the file that is changed, for renameat, renameat2 and linkat the
	// old name. It is empty for other calls that take a name.
	Path string
}

// Sequence decides about calls so that the one of number N, from 0, does not
// happen, and all others do.
type Sequence struct {
	// N is the number of the call.
	N int
	// Only selects the calls that count. Nil counts all.
	Only func(Call) bool
	// Hit is what happens at call N: it returns the errno to fail with.
	Hit func(Call) Errno

	seen int
}

// Decide is for [Run].
func (s *Sequence) Decide(c Call) Errno {
	if s.Only != nil && !s.Only(c) {
		return 0
	}
	s.seen++
	if s.seen-1 != s.N {
		return 0
	}
	return s.Hit(c)
}

// Reached tells whether call N came.
func (s *Sequence) Reached() bool { return s.seen > s.N }
