package instance

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/fleet"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// Codes that pagers answer.
const (
	sessionUnknown = "session_unknown" // the pager does not have the session
	draining       = "draining"        // it takes no new ones
)

// errPagerStarts says that a pager is being found or started, and that nothing is
// known against it.
var errPagerStarts = errors.New("the pager is being started")

// pagerRest is how long a pager that could not be kept running is left alone by the
// watcher. Operations that need it try at once.
const pagerRest = 30 * time.Second

// pagerSet has the pagers that sessions of this Manager are at, by version: the one
// that new sessions go to, and those that still have older ones. Each is found or
// started when it is needed first, and again when the one that was there has ended.
type pagerSet struct {
	open    func(ctx context.Context, version string) (Pager, error) // nil: there are none
	dataDir string
	life    context.Context // ends with the Manager
	starts  *sync.WaitGroup // the Manager's background

	upgrading gate // held alone by an upgrade

	mu    sync.Mutex
	slots map[string]*pagerSlot // by version, protected by mu, as is their content
}

// pagerSlot is what is known of the pager of one version.
type pagerSlot struct {
	pager    Pager         // nil if there is none
	starting chan struct{} // closed when the start under way is over; nil if none is
	err      error         // why there is none; nil before the first start has ended
	failed   time.Time     // when that was
}

// keptRunning is what a *supervisor.Supervisor has beyond a Pager.
type keptRunning interface {
	Over() <-chan struct{}
	Err() error
	Status() supervisor.Status
}

// available reports whether there are pagers at all.
func (s *pagerSet) available() bool { return s.open != nil }

// slot returns what is known of a version, and forgets a pager whose supervision has
// ended. s.mu is held.
func (s *pagerSet) slot(version string) *pagerSlot {
	slot := s.slots[version]
	if slot == nil {
		slot = &pagerSlot{}
		if s.slots == nil {
			s.slots = make(map[string]*pagerSlot)
		}
		s.slots[version] = slot
	}
	if p, ok := slot.pager.(keptRunning); ok {
		select {
		case <-p.Over():
			slot.pager, slot.err, slot.failed = nil, p.Err(), time.Now()
		default:
		}
	}
	return slot
}

// begin starts to find or start the pager of a version, unless somebody does so
// already. s.mu is held.
func (s *pagerSet) begin(version string, slot *pagerSlot) (over <-chan struct{}) {
	if slot.starting != nil {
		return slot.starting
	}
	started := make(chan struct{})
	slot.starting = started
	s.starts.Go(func() {
		p, err := s.open(s.life, version)
		s.mu.Lock()
		defer s.mu.Unlock()
		slot.pager, slot.err, slot.failed, slot.starting = p, err, time.Now(), nil
		close(started)
	})
	return started
}

// get returns the pager of a version; it waits for one that is being started.
func (s *pagerSet) get(ctx context.Context, version string) (Pager, error) {
	s.mu.Lock()
	slot := s.slot(version)
	if slot.pager != nil {
		defer s.mu.Unlock()
		return slot.pager, nil
	}
	over := s.begin(version, slot)
	s.mu.Unlock()
	select {
	case <-over:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot.err != nil {
		return nil, problem.New(http.StatusConflict, CodeNoBackend, "use the backend file, or see the pager's log", "the pager: %w", slot.err)
	}
	return slot.pager, nil
}

// look returns the pager of a version, and waits for nothing. Where there is none it
// is started; the error is [errPagerStarts] until it is known that this fails, and
// then why, until it succeeds.
func (s *pagerSet) look(version string) (Pager, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(version)
	if slot.pager != nil {
		return slot.pager, nil
	}
	if slot.err == nil || time.Since(slot.failed) > pagerRest {
		s.begin(version, slot)
	}
	if slot.err != nil {
		return nil, slot.err
	}
	return nil, errPagerStarts
}

// keeps reports whether somebody sees to it that the pager of a version runs.
func (s *pagerSet) keeps(version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, kept := s.slot(version).pager.(keptRunning)
	return kept
}

// create opens a session at the version that new sessions go to.
func (s *pagerSet) create(ctx context.Context, req control.SessionRequest) (control.Session, error) {
	if !s.available() {
		return control.Session{}, problem.New(http.StatusConflict, CodeNoBackend, "configure a pager, or use the backend file", "there is no pager")
	}
	for before := ""; ; {
		version, err := fleet.Current(s.dataDir)
		if err != nil {
			return control.Session{}, err
		}
		p, err := s.get(ctx, version)
		if err != nil {
			return control.Session{}, err
		}
		session, err := s.createAt(ctx, version, p, req)
		if !hasCode(err, draining) {
			return session, err
		}
		if version == before {
			return session, problem.New(http.StatusConflict, CodeNoBackend, "move to another version with faultline pager upgrade, or wait until its last session is over", "the pager %s: %w", version, err)
		}
		// Another version may have taken its place since it was looked up.
		before = version
	}
}

// closeSession ends a session; one that is not known has ended. A pager that does
// not run is not started for it: the next one finds the VMM gone, and clears up.
func (m *Manager) closeSession(ctx context.Context, id string) (control.Session, error) {
	if id == "" {
		return control.Session{}, nil
	}
	version, ok, err := fleet.Place(m.data.root, id)
	if err != nil {
		return control.Session{}, err
	}
	if ok {
		s, err := m.closeAt(ctx, version, id)
		if there, still, _ := fleet.Place(m.data.root, id); !still || there == version {
			return s, err
		}
		return m.closeSession(ctx, id) // it was handed over meanwhile
	}
	// It is over, or being made: a pager waits with the answer until it is there.
	versions, err := fleet.Versions(m.data.root)
	if err != nil {
		return control.Session{}, err
	}
	var found control.Session
	for _, version := range versions {
		s, err := m.closeAt(ctx, version, id)
		if err != nil {
			return s, err
		}
		if found.ID == "" || s.State == control.Failed {
			found = s
		}
	}
	return found, nil
}

// closeAt closes a session at the pager of a version. One that is just being started
// again is waited for, for a moment.
func (m *Manager) closeAt(ctx context.Context, version, id string) (control.Session, error) {
	c := client.New(pager.ControlSocket(m.data.root, version))
	defer c.Close()
	for begun := time.Now(); ; {
		s, err := c.CloseSession(ctx, id)
		switch {
		case hasCode(err, sessionUnknown):
			return control.Session{}, nil
		case err == nil || !fleet.NotRunning(err):
			return s, err
		case time.Since(begun) > probeTime || !m.pagers.keeps(version):
			return control.Session{}, nil
		}
		select {
		case <-ctx.Done():
			return control.Session{}, context.Cause(ctx)
		case <-time.After(closeInterval):
		}
	}
}

// closeInterval is the time between two attempts to reach a pager that restarts.
const closeInterval = 10 * time.Millisecond

func hasCode(err error, code string) bool {
	var p *problem.Problem
	return errors.As(err, &p) && p.Code == code
}

// Pagers describes all versions of the pager that have been used with the data
// directory, by name.
func (m *Manager) Pagers(ctx context.Context) ([]fleet.Pager, error) {
	list, err := fleet.List(ctx, m.data.root)
	return list, asProblem(err)
}

// DrainPager lets the pager of a version take no new sessions, and end after its last.
func (m *Manager) DrainPager(ctx context.Context, version string) (fleet.Pager, error) {
	p, err := fleet.Drain(ctx, m.data.root, version)
	return p, asProblem(err)
}

// UpgradePager makes a version of the pager the one that new sessions go to, and
// hands all sessions of other versions over to it while their guests run. See
// [fleet.Upgrade]. Report may be nil.
func (m *Manager) UpgradePager(ctx context.Context, version string, report func(done, total int)) (fleet.Upgraded, error) {
	leave, err := m.enter()
	if err != nil {
		return fleet.Upgraded{}, err
	}
	defer leave()
	if !m.pagers.available() {
		return fleet.Upgraded{}, problem.New(http.StatusConflict, CodeNoBackend, "configure a pager", "there is no pager")
	}
	if err := m.pagers.upgrading.lock(ctx); err != nil {
		return fleet.Upgraded{}, problem.New(statusCanceled, CodeCanceled, "ask again", "waiting for another upgrade: %w", err)
	}
	defer m.pagers.upgrading.unlock()
	done, err := fleet.Upgrade(ctx, m.data.root, version, func(ctx context.Context, version string) error {
		_, err := m.pagers.get(ctx, version)
		return err
	}, report)
	if err != nil {
		return done, asProblem(err)
	}
	m.cfg.Logger.Info("new sessions go to another pager", "version", version, "handed_over", done.HandedOver, "kept", len(done.Kept))
	return done, nil
}

// DetachSession gives a guest all of its memory and ends its session, while it runs
// on. Ref is the id of a session, or names the instance that has it. The end of ctx
// calls it off. Report, if not nil, is told how many bytes the guest has been given.
func (m *Manager) DetachSession(ctx context.Context, ref string, report func(given uint64)) (fleet.Detached, error) {
	leave, err := m.enter()
	if err != nil {
		return fleet.Detached{}, err
	}
	defer leave()
	id := ref
	if e, err := m.find(ref); err == nil {
		if id = sessionOf(e.record()); id == "" {
			return fleet.Detached{}, problem.New(http.StatusConflict, CodeNoSession, "nothing needs to be done", "%s has no session: no pager serves it", e.describe().Name)
		}
	}
	d, err := fleet.Detach(ctx, m.data.root, id, report)
	if err != nil {
		return d, asProblem(err)
	}
	// Whoever asks behind this finds the instance without it.
	for _, e := range m.allEntries() {
		if sessionOf(e.record()) == id {
			m.sessions.over(id)
			m.settleLater(e)
		}
	}
	return d, nil
}

// asProblem keeps what is a problem, and no error what is none.
func asProblem(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(statusCanceled, CodeCanceled, "what was done stays; ask again to go on", "%w", err)
	}
	return problem.From(err)
}
