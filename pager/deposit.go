package pager

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/internal/sdnotify"
	"github.com/faultline-vm/faultline/uffd"
)

// Manager is the service manager that started the pager: systemd, or a supervisor that
// speaks like it. The zero value is none.
type Manager struct {
	// Notifier reaches it; nil is none.
	Notifier *sdnotify.Notifier
	// Returned are the descriptors that it kept from the pager before.
	Returned []sdnotify.FD
	// Watchdog is the time within which it wants to hear that the pager works; 0 means
	// that it does not.
	Watchdog time.Duration
}

// findManager looks for the service manager in the environment.
func findManager(getenv func(string) string) (m Manager, err error) {
	if m.Notifier, err = sdnotify.New(getenv); err != nil {
		return m, err
	}
	if m.Watchdog, err = sdnotify.Watchdog(getenv); err != nil {
		return m, err
	}
	m.Returned, err = sdnotify.Stored(getenv)
	return m, err
}

// deposits are what the service manager keeps of sessions: copies of descriptors that
// would die with the pager. There are two kinds:
//
//   - the userfaultfd of a session that has its VMM. It is the stand-in for pidfd_getfd:
//     where a pager may not take a userfaultfd from its VMM, or the VMM has closed its own
//     (Firecracker before 1.12), it comes back from here. It is deposited before the
//     journal says that there is a VMM, and its name holds the VMM's number and start
//     time, so that it is never taken for that of another VMM;
//   - the sockets of a session that waits for its VMM; see arrival.go.
//
// A deposit is removed when it is of no use any more. If that removal got lost, the next
// pager finds what nobody claims, and drops it. The manager sends no receipt: a session
// whose deposit failed is served all the same.
//
// mu is a leaf, and is not held across I/O.
type deposits struct {
	manager *sdnotify.Notifier
	log     *slog.Logger

	mu       sync.Mutex
	returned map[string][]int // by name, until they are claimed; protected by mu
}

// newDeposits takes over what the manager returned.
func newDeposits(m Manager, log *slog.Logger) *deposits {
	d := &deposits{manager: m.Notifier, log: log, returned: make(map[string][]int)}
	for _, stored := range m.Returned {
		d.returned[stored.Name] = append(d.returned[stored.Name], stored.FD)
	}
	return d
}

// depositName is what a session's userfaultfd is called at the manager.
func depositName(id string, pid int, startTime uint64) string {
	return fmt.Sprintf("session.%s.%d.%d", id, pid, startTime)
}

// claim returns what came back under a name. It is the caller's from then on.
func (d *deposits) claim(name string) []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	fds := d.returned[name]
	delete(d.returned, name)
	return fds
}

// has reports whether something came back under a name that nobody claimed yet.
func (d *deposits) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.returned[name]) > 0
}

// removeUnclaimed drops what came back of sessions that are gone.
func (d *deposits) removeUnclaimed() {
	d.mu.Lock()
	unclaimed := d.returned
	d.returned = nil
	d.mu.Unlock()
	for name, fds := range unclaimed {
		uffd.CloseAll(fds)
		d.remove(name)
	}
}

// put gives the manager a copy of a descriptor; use calls a function with that.
func (d *deposits) put(name string, use func(func(fd int) error) error) {
	if err := use(func(raw int) error { return d.manager.Store(name, raw) }); err != nil {
		d.log.Warn("the service manager keeps no copy of a descriptor; if this pager dies, the next may not find the guest's memory", "name", name, "error", err)
	}
}

func (d *deposits) remove(name string) {
	if err := d.manager.Remove(name); err != nil {
		d.log.Warn("the service manager may keep a descriptor that is of no use any more", "name", name, "error", err)
	}
}

// deposit gives a copy of the session's userfaultfd to the service manager, unless that
// has one.
func (s *session) deposit(vmm *pidfd.Process, fd *uffd.FD) {
	name := depositName(s.id, vmm.PID(), vmm.StartTime())
	if s.deposited == name {
		return
	}
	s.withdraw()
	s.deposited = name
	s.deposits.put(name, fd.Use)
}

// claim makes the userfaultfd that came back of a session, if one did, that session's.
func (s *session) claim(found saved) {
	name := depositName(s.id, found.pid, found.start)
	for _, raw := range s.deposits.claim(name) {
		fd, err := uffd.NewFD(raw)
		if err != nil {
			s.log.Warn("the service manager returned something else than a userfaultfd", "name", name, "error", err)
			s.deposits.remove(name)
			continue
		}
		s.dropReturned()
		s.deposited, s.returned = name, fd
	}
}

// withdraw has the service manager drop its copy, if it has one.
func (s *session) withdraw() {
	if s.deposited != "" {
		s.deposits.remove(s.deposited)
	}
}

// dropReturned closes the userfaultfd that came back, if it is of no use.
func (s *session) dropReturned() {
	if s.returned != nil {
		s.returned.Close()
		s.returned = nil
	}
}

// recover gets the userfaultfd of a session that is being adopted: from the VMM, which
// still has it, or else what the service manager returned.
//
// The VMM comes first, since what it has is the guest's without a doubt, and a manager
// may have died meanwhile with all that it kept, or have come too late to keep it.
func (s *session) recover(vmm *pidfd.Process, m *mapping) (*uffd.FD, error) {
	fd, err := findUserfaultfd(vmm)
	switch {
	case err == nil && s.returned == nil:
		s.deposit(vmm, fd)
	case errors.Is(err, errStranded) && s.returned == nil:
		err = fmt.Errorf("no service manager kept its userfaultfd, and from the VMM: %w", err)
	case err != nil && !errors.Is(err, errVMMExited) && s.returned != nil && !memoryGone(s.returned, m):
		s.log.Info("the userfaultfd came back from the service manager", "session", s.id, "vmm_pid", vmm.PID(), "reason", err)
		fd, err, s.returned = s.returned, nil, nil
	}
	s.dropReturned()
	return fd, err
}

// memoryGone reports whether the memory behind a userfaultfd is gone though its process
// is not: that runs another program. It asks the kernel to lift a write protection,
// which changes nothing, and which it refuses with ESRCH then.
func memoryGone(fd *uffd.FD, m *mapping) bool {
	r := m.regions[0]
	return fd.WriteProtect(uffd.Range{Start: r.start, Len: m.pageSize}, 0).Status == uffd.Gone
}
