package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/pagertest"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// laterVersion is the version of a second pager program, which is otherwise the same.
const laterVersion = "98.7.6"

// installLater installs that program where an installation puts it, once.
var installLater = sync.OnceValue(func() error {
	dir := filepath.Join(binaries, "..", "lib", "faultline", "pager", laterVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	built, err := pagertest.Build(dir, laterVersion)
	if err != nil {
		return err
	}
	return os.Rename(built, filepath.Join(dir, "faultline-pager"))
})

// pagers returns what pager ls tells of those that run, by version.
func (m *managed) pagers() map[string]fleet.Pager {
	m.t.Helper()
	var list api.Pagers
	decode(m.t, m.must("pager", "ls", "--json"), &list)
	running := map[string]fleet.Pager{}
	for _, p := range list.Pagers {
		if p.Status != fleet.Down {
			running[p.Version] = p
		} else if p.Sessions > 0 {
			m.t.Errorf("pager %s: %+v", p.Version, p)
		}
	}
	return running
}

// upgrade moves everything to a version, and checks that only that is left.
func (m *managed) upgrade(version string, sessions int) {
	m.t.Helper()
	var done fleet.Upgraded
	decode(m.t, m.must("pager", "upgrade", "--to", version, "--json"), &done)
	if done.Version != version || done.HandedOver != sessions || len(done.Kept) > 0 {
		m.t.Errorf("upgrade to %s: %+v", version, done)
	}
	running := m.pagers()
	if p := running[version]; len(running) != 1 || p.Sessions != sessions || !p.Current || p.Status != fleet.OK {
		m.t.Errorf("after the upgrade to %s: %+v", version, running)
	}
}

// kill ends the daemon with kill -9.
func (m *managed) kill() {
	m.t.Helper()
	if err := m.daemon.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	_ = m.daemon.Wait()
	m.daemon = nil
}

// upgrades moves guests to another version of the pager and back, with the daemon, as
// it is killed in between, and without it.
func (m *managed) upgrades() {
	if err := installLater(); err != nil {
		m.t.Fatal(err)
	}
	m.guest.create(m, "source")
	m.must("start", "source")
	m.guest.booted(m, "source")
	m.must("standby", "source")
	m.must("restore", "source", "--backend", "uffd")
	names := append(m.forks(2, "fork", "source", "--name", "fork", "--backend", "uffd"), "source")
	running := func() {
		m.t.Helper()
		for _, name := range names {
			m.inspect(name, instance.Running)
		}
	}
	m.upgrade(laterVersion, 3)
	running()
	names = append(names, m.forks(1, "fork", "source", "--name", "late", "--backend", "uffd")...)
	if p := m.pagers()[laterVersion]; p.Sessions != 4 {
		m.t.Errorf("a new fork did not go to the new pager: %+v", m.pagers())
	}
	m.kill()
	m.startDaemon()
	running()
	m.guest.check(m, names...)
	names = append(names, m.forks(1, "fork", "source", "--name", "later", "--backend", "uffd")...)
	m.upgrade(pager.Version(), 5)
	running()

	// The same without a daemon, which then finds them where they are.
	m.kill()
	m.upgrade(laterVersion, 5)
	var detached fleet.Detached
	m.startDaemon()
	running()
	m.guest.check(m, names...)
	decode(m.t, m.must("pager", "detach", "source", "--json"), &detached)
	if i := m.inspect("source", instance.Running); i.Session != "" || i.PID != detached.VMMPID {
		m.t.Errorf("detached: %+v, %+v", i, detached)
	}
	m.kill()
	if r := m.run("pager", "detach", detached.Session); r.code != 4 || !strings.Contains(r.stderr, "pager sessions") {
		m.t.Errorf("detaching what has no session: %v", r)
	}
	session := m.pagers()[laterVersion].Sessions
	m.startDaemon()
	late := m.inspect("late", instance.Running).Session
	m.kill()
	m.must("pager", "detach", late)
	if got := m.pagers()[laterVersion].Sessions; session != 4 || got != 3 {
		m.t.Errorf("%d sessions before, %d after one was detached", session, got)
	}
	m.startDaemon()
	m.until("the end of the session in the record", func() bool { return m.inspect("late", instance.Running).Session == "" })
	if r := m.run("pager", "upgrade", "--to", "1.2.3"); r.code == 0 || !strings.Contains(r.stderr, "make install") {
		m.t.Errorf("an upgrade to a version that is not installed: %v", r)
	}
	if r := m.run("pager", "drain", "--pager-version", "1.2.3"); r.code == 0 || !strings.Contains(r.stderr, "faultline pager ls") {
		m.t.Errorf("draining a version that does not run: %v", r)
	}
	running()
	m.guest.check(m, names...)
	m.must(append([]string{"delete"}, names...)...)
}

func TestPagerUpgradeOnTheSimulator(t *testing.T) {
	m := manage(t, "fcsim")
	m.guest = newTestGuest(m, 64)
	m.upgrades()
	m.end()
}

func TestPagerUpgradeOnFirecracker(t *testing.T) {
	requireFirecracker(t)
	m := manage(t, "firecracker")
	m.guest = newTestGuest(m, 8)
	m.upgrades()
	m.end()
}
