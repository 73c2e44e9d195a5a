package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/guest/linux/linuxtest"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/leftover"
)

// managed is a data directory with a daemon, used through the command line alone.
type managed struct {
	t      *testing.T
	dir    string // holds data and config.yaml
	daemon *exec.Cmd
	log    string
	guest  managedGuest
	// hypervisor is what is preferred.
	hypervisor string
}

// manage starts a daemon whose VMMs are those of the hypervisor.
func manage(t *testing.T, hypervisor string) *managed {
	t.Helper()
	m := &managed{t: t, dir: dataDir(t)}
	m.log = filepath.Join(m.dir, "daemon.log")
	m.hypervisor = hypervisor
	m.configure(instance.File)
	m.startDaemon()
	t.Cleanup(m.clear)
	return m
}

// configure writes the configuration.
func (m *managed) configure(backend instance.Backend) {
	m.t.Helper()
	text := fmt.Sprintf("data_dir: %s\nhypervisor:\n  prefer: %s\n  firecracker_snapshot_memory_backend: %s\n"+
		"  firecracker_uffd_cache_max_bytes: 256MiB\npager:\n  manager: child\n", m.data(), m.hypervisor, backend)
	if err := os.WriteFile(m.config(), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.must("config", "check", m.config())
}

func (m *managed) data() string   { return filepath.Join(m.dir, "data") }
func (m *managed) config() string { return filepath.Join(m.dir, "config.yaml") }

// run runs a command against the daemon.
func (m *managed) run(args ...string) run {
	m.t.Helper()
	return faultline(m.t, binaries, func(c *exec.Cmd) { c.Env = append(c.Env, "FAULTLINE_DATA_DIR="+m.data()) }, args...)
}

// must runs a command that has to succeed.
func (m *managed) must(args ...string) run {
	m.t.Helper()
	r := m.run(args...)
	if r.code != 0 {
		log, _ := os.ReadFile(m.log)
		m.t.Fatalf("faultline %q: %v\nlog of the daemon:\n%s", args, r, log)
	}
	return r
}

// startDaemon starts the daemon, with additions to its environment, and waits until it
// answers.
func (m *managed) startDaemon(env ...string) {
	m.t.Helper()
	log, err := os.OpenFile(m.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.daemon = exec.Command(filepath.Join(binaries, "faultline"), "daemon", "--config", m.config())
	m.daemon.Stderr = log
	m.daemon.Env = append(os.Environ(), env...)
	if err := m.daemon.Start(); err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); m.run("ps").code != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(m.log)
			m.t.Fatalf("the daemon does not answer:\n%s", text)
		}
	}
}

// stopDaemon ends the daemon as systemd would, and checks that it goes in peace.
func (m *managed) stopDaemon() {
	m.t.Helper()
	if err := m.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		m.t.Error(err)
	}
	if err := m.daemon.Wait(); err != nil {
		text, _ := os.ReadFile(m.log)
		m.t.Errorf("the daemon ended with %v:\n%s", err, text)
	}
	m.daemon = nil
}

// clear ends what a failed test has left. After one that passed it finds nothing.
func (m *managed) clear() {
	if m.t.Failed() {
		if text, err := os.ReadFile(m.log); err == nil {
			m.t.Logf("log of the daemon:\n%s", text)
		}
	}
	if m.daemon != nil {
		_ = m.daemon.Process.Kill()
		_ = m.daemon.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := leftover.End(ctx, m.dir); err != nil {
		m.t.Error(err)
	}
	for _, name := range []string{m.config(), m.log, m.data(), filepath.Join(m.dir, "guest")} {
		if err := os.RemoveAll(name); err != nil {
			m.t.Error(err)
		}
	}
}

// list returns what ps tells.
func (m *managed) list() []instance.Instance {
	m.t.Helper()
	var list api.Instances
	decode(m.t, m.must("ps", "--json"), &list)
	return list.Instances
}

// states returns the state of every instance.
func (m *managed) states() map[string]instance.State {
	m.t.Helper()
	states := map[string]instance.State{}
	for _, i := range m.list() {
		states[i.Name] = i.State
	}
	return states
}

// inspect describes an instance, which must be in the state.
func (m *managed) inspect(name string, want instance.State) instance.Instance {
	m.t.Helper()
	var i instance.Instance
	decode(m.t, m.must("inspect", name, "--json"), &i)
	if i.State != want {
		m.t.Fatalf("%s is %s (%s), want %s", name, i.State, i.Reason, want)
	}
	return i
}

// forks makes forks and returns their names.
func (m *managed) forks(count int, args ...string) []string {
	m.t.Helper()
	var made api.Forks
	decode(m.t, m.must(append(args, "--count", fmt.Sprint(count), "--json")...), &made)
	var names []string
	for _, fork := range made.Forks {
		if fork.Problem != nil || fork.Instance == nil || fork.Instance.State != instance.Running {
			m.t.Fatalf("fork %s: %+v, %v", fork.Name, fork.Instance, fork.Problem)
		}
		names = append(names, fork.Name)
	}
	if len(names) != count {
		m.t.Fatalf("%d forks instead of %d", len(names), count)
	}
	return names
}

// A user's day: create, start, snapshot, fork, park, restore, and delete, the source
// first. All guests check their memory all the time.
func (m *managed) day() {
	m.guest.create(m, "source")
	m.must("start", "source")
	m.guest.booted(m, "source")
	m.must("snapshot", "create", "source", "--name", "first")
	m.inspect("source", instance.Running)

	names := append(m.forks(10, "fork", "source", "--name", "fork"), "source")
	m.inspect("source", instance.Running)
	want := map[string]instance.State{}
	for _, name := range names {
		want[name] = instance.Running
	}
	if diff := cmp.Diff(want, m.states()); diff != "" {
		m.t.Errorf("after the forks: %s", diff)
	}
	m.guest.check(m, names...)

	m.must("standby", "fork-1")
	if parked := m.inspect("fork-1", instance.Standby); parked.PID != 0 || parked.Capture == nil {
		m.t.Errorf("in standby: %+v", parked)
	}
	if r := m.run("pause", "fork-1"); r.code != 5 || !strings.Contains(r.stderr, "standby") || !strings.Contains(r.stderr, "restore") {
		m.t.Errorf("pausing what is in standby: %v", r)
	}
	m.must("restore", "fork-1")
	if restored := m.inspect("fork-1", instance.Running); restored.Backend == nil || restored.Backend.Why == "" {
		m.t.Errorf("restored: %+v", restored)
	}
	m.guest.check(m, "fork-1")
	m.must("standby", "fork-2")
	m.must("restore", "fork-2", "--backend", "uffd")
	m.guest.check(m, "fork-2")
	m.must("pause", "fork-3")
	m.must("resume", "fork-3")
	// Firecracker 1.16 delivers nothing over vsock after a resume until the guest has
	// been told of a reset, which a capture does.
	m.must("snapshot", "create", "fork-3", "--name", "second")
	m.must("snapshot", "delete", "second")
	m.guest.check(m, "fork-3")

	// Microvms outlive their daemon, and the next one knows them.
	before := m.list()
	m.stopDaemon()
	m.startDaemon()
	pids := func(list []instance.Instance) map[string]int {
		out := map[string]int{}
		for _, i := range list {
			out[i.Name] = i.PID
		}
		return out
	}
	if diff := cmp.Diff(pids(before), pids(m.list())); diff != "" {
		m.t.Errorf("processes after a restart of the daemon: %s", diff)
	}

	// A changed backend concerns restores from then on.
	for _, backend := range []instance.Backend{instance.File, instance.Uffd} {
		m.configure(backend)
		m.must("config", "reload")
		m.must("standby", "source")
		m.must("restore", "source")
		if i := m.inspect("source", instance.Running); i.Backend == nil || i.Backend.Backend != backend {
			m.t.Errorf("restored with %+v, configured is %s", i.Backend, backend)
		}
		m.guest.check(m, "source")
	}

	m.must("delete", "source")
	names = append(names[:len(names)-1], m.forks(2, "snapshot", "fork", "first", "--name", "late")...)
	m.must("snapshot", "delete", "first")
	m.guest.check(m, names...)
	m.must(append([]string{"delete"}, names...)...)
	m.must("delete", "fork-1", "--if-exists")
	if r := m.run("delete", "fork-1"); r.code != 4 {
		m.t.Errorf("deleting what is gone: %v", r)
	}
}

// end ends everything, and checks that nothing is left.
func (m *managed) end() {
	m.t.Helper()
	if left := m.list(); len(left) > 0 {
		m.t.Errorf("ps: %+v", left)
	}
	m.stopDaemon()
	if r := m.run("ps"); r.code != 3 || !strings.Contains(r.stderr, "faultline daemon --config") {
		m.t.Errorf("without a daemon: %v", r)
	}
	if _, err := os.Stat(filepath.Join(m.data(), "uffd")); err == nil {
		m.must("pager", "drain")
	}
	for deadline := time.Now().Add(patience); len(processesOf(m.t, m.dir)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("still running: %v", processesOf(m.t, m.dir))
		}
	}
	var left []string
	err := filepath.WalkDir(m.data(), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left = append(left, strings.TrimPrefix(path, m.data()+"/"))
		}
		return err
	})
	// What is kept tells the next daemon and pager about the directory, and the
	// operator about the pager.
	left = slices.DeleteFunc(left, func(name string) bool {
		base := filepath.Base(name)
		return name == "lock" || name == "VERSION" || base == "pager.lock" || base == "pager.log" || base == "chosen.json" || base == "notify.sock"
	})
	if err != nil || len(left) > 0 {
		m.t.Errorf("left in the data directory: %q, %v", left, err)
	}
	for _, name := range []string{"instances", "snapshots"} {
		if entries, err := os.ReadDir(filepath.Join(m.data(), name)); err != nil || len(entries) > 0 {
			m.t.Errorf("left in %s: %v, %v", name, entries, err)
		}
	}
}

func TestManagerOnTheSimulator(t *testing.T) {
	m := manage(t, "fcsim")
	m.guest = newTestGuest(m, 512)
	m.day()
	m.end()
}

func TestManagerOnFirecracker(t *testing.T) {
	requireFirecracker(t)
	m := manage(t, "firecracker")
	m.guest = newTestGuest(m, 8)
	m.day()
	m.end()
}

func TestManagerWithLinux(t *testing.T) {
	requireFirecracker(t)
	linux := linuxtest.Require(t)
	m := manage(t, "firecracker")
	m.guest = &linuxGuest{guest: linux, seen: map[string]uint64{}}
	m.day()
	m.end()
}

func requireFirecracker(t *testing.T) {
	t.Helper()
	if _, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal}); err != nil {
		t.Skip(err)
	}
}

// A daemon that is killed in the middle of a fork leaves the fork undone, and its
// source running. The pager that it has started has other failpoints, and lives on.
func TestDaemonKilledInAFork(t *testing.T) {
	m := manage(t, "fcsim")
	m.guest = newTestGuest(m, 8)
	m.guest.create(m, "source")
	m.must("start", "source")
	m.guest.booted(m, "source")
	m.stopDaemon()
	m.startDaemon("FAULTLINE_DAEMON_FAILPOINTS=fork/load-the-capture/done=crash")
	if r := m.run("fork", "source", "--name", "lost"); r.code == 0 {
		t.Errorf("a fork of a daemon that was killed: %v", r)
	}
	var exit *exec.ExitError
	if err := m.daemon.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the daemon ended with %v", err)
	}
	m.startDaemon()
	if diff := cmp.Diff(map[string]instance.State{"source": instance.Running}, m.states()); diff != "" {
		t.Error(diff)
	}
	m.guest.check(m, append(m.forks(1, "fork", "source", "--name", "kept"), "source")...)
	m.must("delete", "source", "kept")
	m.end()
}

func TestSecondDaemonIsRefused(t *testing.T) {
	m := manage(t, "fcsim")
	r := m.run("daemon", "--config", m.config())
	if r.code != 5 || !strings.Contains(r.stderr, m.data()) {
		t.Errorf("a second daemon: %v", r)
	}
	m.end()
}

func TestDaemonReportsAllFaults(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "data_dir: here\nhypervisor:\n  backend: file\n  firecracker_snapshot_memory_backend: nfs\n  firecracker_uffd_cache_max_bytes: 0\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "check", config}, {"daemon", "--config", config}} {
		r := faultline(t, binaries, nil, args...)
		for _, want := range []string{"line 1: data_dir", "line 3: hypervisor.backend", "line 4: ", "nfs", "line 5: "} {
			if r.code != 1 || !strings.Contains(r.stderr, want) {
				t.Errorf("%q lacks %q: %v", args, want, r)
			}
		}
	}
}
