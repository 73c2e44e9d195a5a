package instance

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/pagertest"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// laterVersion is the version of a second pager program, which is otherwise the same.
const laterVersion = "98.7.6"

var laterPager = sync.OnceValue(func() error {
	dir, err := binaries()
	if err == nil {
		_, err = pagertest.Build(dir, laterVersion)
	}
	return err
})

// twoVersions is a site with the programs of two versions of the pager.
func twoVersions(t *testing.T) *site {
	t.Helper()
	if err := laterPager(); err != nil {
		t.Fatal(err)
	}
	return newSite(t)
}

// neverUnknown returns a function that fails the test if any instance has been
// unknown since.
func neverUnknown(t *testing.T, m *Manager) (check func()) {
	t.Helper()
	events := m.Subscribe()
	return func() {
		t.Helper()
		events.Close()
		for e := range events.C {
			if e.Kind == EventState && e.State == Unknown {
				t.Errorf("%s was unknown: %s", e.Name, e.Reason)
			}
		}
	}
}

// at fails unless the session of an instance is at a version of the pager.
func (s *site) at(m *Manager, ref, version string) {
	s.t.Helper()
	i := mustBe(s.t, m, ref, Running)
	if got, _, err := fleet.Place(s.cfg.DataDir, i.Session); err != nil || got != version {
		s.t.Errorf("the session %q of %s is at the pager %q, %v; want %s", i.Session, ref, got, err, version)
	}
}

// only fails unless the pager of that version runs, and no other.
func (s *site) only(version string) {
	s.t.Helper()
	running := s.pagers()
	if _, ok := running[version]; !ok || len(running) != 1 {
		s.t.Errorf("the pagers %v run, want %s alone", running, version)
	}
}

// looked has the watcher look until it has asked every pager that has a session, and
// has no doubt left about any.
func looked(t *testing.T, m *Manager) {
	t.Helper()
	ctx := within(t)
	places, err := fleet.Places(m.data.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range places {
		if _, err := m.pagers.get(ctx, version); err != nil {
			t.Fatal(err)
		}
	}
	for ctx.Err() == nil {
		m.lookAtAll()
		if !m.sessions.inDoubt() {
			return
		}
	}
	t.Fatal("there are doubts about a session")
}

func (v *sessionView) inDoubt() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(slices.Collect(maps.Values(v.opinions)), func(o opinion) bool { return o.reason != "" })
}

// TestPagerUpgrade moves running guests to another version of the pager and back,
// with a new manager in between.
func TestPagerUpgrade(t *testing.T) {
	s := twoVersions(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	fork := func(name string) {
		t.Helper()
		_, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{name}, Backend: Uffd})
		must(s, 0, err)
	}
	fork("f")
	calm := neverUnknown(t, m)
	upgrade := func(version, from string, sessions int) {
		t.Helper()
		done, err := m.UpgradePager(ctx, version, nil)
		must(s, 0, err)
		if done.HandedOver != sessions || len(done.Kept) > 0 || len(done.Ended) != 1 || done.Ended[0] != from {
			t.Errorf("upgrade to %s: %+v", version, done)
		}
		looked(t, m)
		s.only(version)
		s.at(m, "a", version)
		s.at(m, "f", version)
		s.verify(m)
	}
	upgrade(laterVersion, pager.Version(), 2)
	fork("g")
	s.at(m, "g", laterVersion)
	calm()
	s.audit(m)

	// The next manager knows where they are, and what was chosen.
	must(s, 0, m.Close())
	m = s.open()
	calm = neverUnknown(t, m)
	looked(t, m)
	fork("h")
	s.at(m, "h", laterVersion)
	if done, err := m.UpgradePager(ctx, laterVersion, nil); err != nil || done.HandedOver != 0 || len(done.Ended) != 0 {
		t.Errorf("a second upgrade: %+v, %v", done, err)
	}
	upgrade(pager.Version(), laterVersion, 4)
	calm()
	must(s, 0, second(m.Stop(ctx, "h", StopRequest{})))
	must(s, 0, second(m.Standby(ctx, "g")))
	s.audit(m)
	must(s, 0, second(m.Restore(ctx, "g", RestoreRequest{Backend: Uffd})))
	s.at(m, "g", pager.Version())
	s.verify(m)
	s.empty(m)
}

// TestUpgradeThatCannotBe asks for a version that is not there, and for one that
// takes no sessions. Everything stays as it was.
func TestUpgradeThatCannotBe(t *testing.T) {
	s := twoVersions(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	calm := neverUnknown(t, m)
	for version, want := range map[string]string{"1.2.3": "1.2.3", "../x": "version", "": "version"} {
		if done, err := m.UpgradePager(ctx, version, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("upgrade to %q: %+v, %v", version, done, err)
		}
	}
	// A pager of the other version has a session of its own and is being drained.
	p, err := m.pagers.get(ctx, laterVersion)
	must(s, 0, err)
	i := mustBe(t, m, "a", Running)
	image := filepath.Join(i.Dir, "captures", i.Capture.ID, "memory.json")
	_, err = p.CreateSession(ctx, control.SessionRequest{ID: "somebody-elses", Image: image})
	must(s, 0, err)
	if _, err := m.DrainPager(ctx, laterVersion); err != nil {
		t.Fatal(err)
	}
	if _, err := m.UpgradePager(ctx, laterVersion, nil); code(err) != fleet.CodePagerDraining {
		t.Errorf("upgrade to a pager that is draining: %v", err)
	}
	if current, err := fleet.Current(s.cfg.DataDir); err != nil || current != pager.Version() {
		t.Errorf("the current version is %s, %v", current, err)
	}
	must(s, 0, second(m.closeSession(ctx, "somebody-elses")))
	// It was on its way out; an upgrade waits for that.
	if done, err := m.UpgradePager(ctx, laterVersion, nil); err != nil || done.HandedOver != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	s.at(m, "a", laterVersion)
	calm()
	s.verify(m)
	s.empty(m)
}

// TestUpgradeThatWasInterrupted opens a manager between the two halves of an
// upgrade: the choice is made, the sessions are where they were.
func TestUpgradeThatWasInterrupted(t *testing.T) {
	s := twoVersions(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	must(s, 0, m.Close())
	must(s, 0, fleet.Choose(s.cfg.DataDir, laterVersion))
	m = s.open()
	calm := neverUnknown(t, m)
	looked(t, m)
	s.at(m, "a", pager.Version())
	_, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}, Backend: Uffd})
	must(s, 0, err)
	s.at(m, "f", laterVersion)
	done, err := m.UpgradePager(ctx, laterVersion, nil)
	if err != nil || done.HandedOver != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	calm()
	s.only(laterVersion)
	s.verify(m)
	s.empty(m)
}

// TestHandedOverBehindItsBack hands a session over without the manager's knowledge.
func TestHandedOverBehindItsBack(t *testing.T) {
	s := twoVersions(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	calm := neverUnknown(t, m)
	must(s, 0, second(m.cfg.Pager(m.background, laterVersion)))
	c := s.pager()
	defer c.Close()
	must(s, 0, second(c.Handover(ctx, control.HandoverRequest{To: pager.Dir(s.cfg.DataDir, laterVersion)})))
	looked(t, m)
	s.at(m, "a", laterVersion)
	calm()
	// It is that pager which it depends on now.
	health := s.pagers()[laterVersion]
	must(s, 0, syscall.Kill(health.PID, syscall.SIGSTOP))
	now, err := m.Wait(ctx, "a", Unknown)
	must(s, 0, syscall.Kill(health.PID, syscall.SIGCONT))
	if err != nil || !strings.Contains(now.Reason, "the pager "+laterVersion) {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	if _, err := m.Wait(ctx, "a", Running); err != nil {
		t.Fatal(err)
	}
	s.verify(m)
	must(s, 0, second(m.Stop(ctx, "a", StopRequest{})))
	s.audit(m)
}

// TestDetach takes a guest off its pager.
func TestDetach(t *testing.T) {
	s := twoVersions(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	calm := neverUnknown(t, m)
	if d, err := m.DetachSession(ctx, "a", nil); err != nil || d.MemoryBytes != testMemory || d.Pager != pager.Version() {
		t.Fatalf("%+v, %v", d, err)
	}
	if i := mustBe(t, m, "a", Running); i.Session != "" || i.Backend == nil {
		t.Errorf("detached: %+v", i)
	}
	if _, err := m.DetachSession(ctx, "a", nil); code(err) != CodeNoSession {
		t.Errorf("a second time: %v", err)
	}
	if _, err := m.DetachSession(ctx, "nobody", nil); code(err) != sessionUnknown {
		t.Errorf("of nobody: %v", err)
	}
	s.verify(m)
	must(s, 0, second(m.Standby(ctx, "a")))
	must(s, 0, second(m.Restore(ctx, "a", RestoreRequest{Backend: Uffd})))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.DetachSession(canceled, "a", nil); code(err) != CodeCanceled {
		t.Errorf("called off: %v", err)
	}
	looked(t, m)
	s.at(m, "a", pager.Version())
	calm()
	s.verify(m)
	s.audit(m)
}

// TestDetachedBehindItsBack detaches a session while there is no manager, and lets
// the only one forget it who knew.
func TestDetachedBehindItsBack(t *testing.T) {
	s := newSite(t)
	m := s.open()
	lazy(s, m)
	session := mustBe(t, m, "a", Running).Session
	must(s, 0, m.Close())
	must(s, 0, second(fleet.Detach(within(t), s.cfg.DataDir, session, nil)))
	s.killPagers()
	m = s.open()
	calm := neverUnknown(t, m)
	looked(t, m)
	if i := mustBe(t, m, "a", Running); i.Session != "" {
		t.Errorf("it still has the session %s", i.Session)
	}
	calm()
	s.verify(m)
	s.audit(m)
}

// TestSessionLost takes a session away from its pager, and gives it back.
func TestSessionLost(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	session := mustBe(t, m, "a", Running).Session
	journal := filepath.Join(pager.Dir(s.cfg.DataDir, pager.Version()), "sessions", session)
	must(s, 0, os.Rename(journal, filepath.Join(s.dir, "away")))
	s.killPagers()
	if now, err := m.Wait(ctx, "a", Unknown); err != nil || !strings.Contains(now.Reason, session) {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	must(s, 0, os.Rename(filepath.Join(s.dir, "away"), journal))
	// The pager looks for sessions when it starts.
	s.killPagers()
	if now, err := m.Wait(ctx, "a", Running); err != nil {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	s.verify(m)
	s.audit(m)
}

// TestStalled lets the answer to a fault take longer than a guest should wait.
func TestStalled(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	t.Setenv(failpoint.Env, "before-copy=delay:4s@1")
	c := s.pager()
	defer c.Close()
	before, err := c.Health(ctx)
	must(s, 0, err)
	s.killPagers()
	for {
		if h, err := c.Health(ctx); err == nil && h.PID != before.PID {
			break
		}
		time.Sleep(time.Millisecond)
	}
	must(s, 0, m.Send(ctx, "a", []byte{guest.CommandCheck}))
	if now, err := m.Wait(ctx, "a", Unknown); err != nil || !strings.Contains(now.Reason, "has waited for longer than 1s") {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	if _, err := m.Wait(ctx, "a", Running); err != nil {
		t.Fatal(err)
	}
	s.verify(m)
	s.audit(m)
}

// TestPagerGone kills the pager, and takes away what it is started from.
func TestPagerGone(t *testing.T) {
	s := newSite(t)
	lost := context.Canceled
	open := s.cfg.Pager
	var mu sync.Mutex
	s.cfg.Pager = func(ctx context.Context, version string) (Pager, error) {
		mu.Lock()
		defer mu.Unlock()
		if lost == nil {
			return nil, os.ErrInvalid
		}
		return open(ctx, version)
	}
	m := s.open()
	ctx := within(t)
	lazy(s, m)
	must(s, 0, m.Close())
	s.killPagers()
	mu.Lock()
	lost = nil
	mu.Unlock()
	m = s.open()
	// Nobody has asked for it yet.
	mustBe(t, m, "a", Running)
	if now, err := m.Wait(ctx, "a", Unknown); err != nil || !strings.Contains(now.Reason, os.ErrInvalid.Error()) {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	// Who needs a pager does not wait for the watcher to try again.
	mu.Lock()
	lost = context.Canceled
	mu.Unlock()
	must(s, 0, second(m.pagers.get(ctx, pager.Version())))
	if now, err := m.Wait(ctx, "a", Running); err != nil {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	s.verify(m)
	s.audit(m)
}

// TestPagerKilledCalmly kills the pager again and again. Its supervisor takes care of
// that, and no instance is unknown.
func TestPagerKilledCalmly(t *testing.T) {
	s := newSite(t)
	m := s.open()
	lazy(s, m)
	calm := neverUnknown(t, m)
	for range 3 {
		for _, h := range s.pagers() {
			must(s, 0, syscall.Kill(h.PID, syscall.SIGKILL))
		}
		m.lookAtAll()
		s.verify(m)
	}
	looked(t, m)
	mustBe(t, m, "a", Running)
	calm()
	s.audit(m)
}

// TestFirecrackerPagerUpgrade is TestPagerUpgrade on the real Firecracker.
func TestFirecrackerPagerUpgrade(t *testing.T) {
	if err := laterPager(); err != nil {
		t.Fatal(err)
	}
	s, spec := realSite(t)
	m := s.open()
	ctx := within(t)
	s.create(m, "a", spec)
	must(s, 0, second(m.Standby(ctx, "a")))
	must(s, 0, second(m.Restore(ctx, "a", RestoreRequest{Backend: Uffd})))
	for _, version := range []string{laterVersion, pager.Version()} {
		done, err := m.UpgradePager(ctx, version, nil)
		if err != nil || done.HandedOver != 1 {
			t.Fatalf("to %s: %+v, %v", version, done, err)
		}
		s.at(m, "a", version)
		s.ask(m, "a", guest.CommandCheck, guest.Check)
	}
	must(s, 0, second(m.DetachSession(ctx, "a", nil)))
	s.ask(m, "a", guest.CommandWrite, guest.Write)
	s.ask(m, "a", guest.CommandCheck, guest.Check)
	s.audit(m)
	s.empty(m)
}
