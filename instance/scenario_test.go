package instance

import (
	"cmp"
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// scenario is one operation in one situation. An instance that is named in neither
// map does not exist then.
type scenario struct {
	name  string
	op    Operation
	setup func(s *site, m *Manager)
	run   func(ctx context.Context, m *Manager) error
	// before and after are the states of instances by name; snapshots have no state.
	before, after                   map[string]State
	snapshotsBefore, snapshotsAfter []string
}

// scenarios meet every step of every operation at least once.
var scenarios = []scenario{
	{
		name: "create", op: opCreate, setup: func(*site, *Manager) {},
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Create(ctx, CreateRequest{Name: "a", Spec: testSpec(m)}))
		},
		before: map[string]State{}, after: map[string]State{"a": Stopped},
	},
	{
		name: "start", op: OpStart, setup: stopped,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Start(ctx, "a")) },
		before: map[string]State{"a": Stopped}, after: map[string]State{"a": Running},
	},
	{
		name: "stop", op: OpStop, setup: running,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Stop(ctx, "a", StopRequest{})) },
		before: map[string]State{"a": Running}, after: map[string]State{"a": Stopped},
	},
	{
		name: "stop with a session", op: OpStop, setup: lazy,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Stop(ctx, "a", StopRequest{})) },
		before: map[string]State{"a": Running}, after: map[string]State{"a": Stopped},
	},
	{
		name: "forced stop", op: OpForceStop, setup: standby,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Stop(ctx, "a", StopRequest{Force: true})) },
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Stopped},
	},
	{
		name: "pause", op: OpPause, setup: running,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Pause(ctx, "a")) },
		before: map[string]State{"a": Running}, after: map[string]State{"a": Paused},
	},
	{
		name: "resume of a fork", op: OpResume, setup: pausedFork,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Resume(ctx, "f")) },
		before: map[string]State{"f": Paused}, after: map[string]State{"f": Running},
	},
	{
		name: "standby", op: OpStandby, setup: running,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Standby(ctx, "a")) },
		before: map[string]State{"a": Running}, after: map[string]State{"a": Standby},
	},
	{
		name: "standby with a session", op: OpStandby, setup: lazy,
		run:    func(ctx context.Context, m *Manager) error { return second(m.Standby(ctx, "a")) },
		before: map[string]State{"a": Running}, after: map[string]State{"a": Standby},
	},
	{
		name: "restore of a stack by file", op: OpRestore, setup: stack,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Restore(ctx, "a", RestoreRequest{Backend: File}))
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Running},
	},
	{
		name: "restore of a fork by uffd", op: OpRestore, setup: standbyFork,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Restore(ctx, "f", RestoreRequest{Backend: Uffd}))
		},
		before: map[string]State{"f": Standby}, after: map[string]State{"f": Running},
	},
	{
		name: "fork of a running instance", op: OpFork, setup: running,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}}))
		},
		before: map[string]State{"a": Running}, after: map[string]State{"a": Running, "f": Running},
	},
	{
		name: "forks of a stack by file", op: OpFork, setup: stack,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}, Backend: File}))
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Standby, "f": Running, "g": Running},
	},
	{
		name: "forks by uffd", op: OpFork, setup: standby,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}, Backend: Uffd}))
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Standby, "f": Running, "g": Running},
	},
	{
		name: "fork to stopped", op: OpFork, setup: standby,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}, Target: Stopped}))
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Standby, "f": Stopped},
	},
	{
		name: "snapshot of a running instance", op: OpSnapshot, setup: running,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"}))
		},
		before: map[string]State{"a": Running}, after: map[string]State{"a": Running}, snapshotsAfter: []string{"s"},
	},
	{
		name: "snapshot of one in standby", op: OpSnapshot, setup: standby,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"}))
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Standby}, snapshotsAfter: []string{"s"},
	},
	{
		name: "restore of a snapshot", op: OpRestoreSnapshot, setup: snapshot,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.RestoreSnapshot(ctx, "s", RestoreRequest{Backend: Uffd}))
		},
		before: map[string]State{"a": Stopped}, after: map[string]State{"a": Running},
		snapshotsBefore: []string{"s"}, snapshotsAfter: []string{"s"},
	},
	{
		name: "restore of a snapshot by file into a fork", op: OpRestoreSnapshot, setup: forkSnapshot,
		run: func(ctx context.Context, m *Manager) error {
			return second(m.RestoreSnapshot(ctx, "s", RestoreRequest{Backend: File}))
		},
		before: map[string]State{"f": Standby}, after: map[string]State{"f": Running},
		snapshotsBefore: []string{"s"}, snapshotsAfter: []string{"s"},
	},
	{
		name: "delete", op: OpDelete, setup: lazy,
		run:    func(ctx context.Context, m *Manager) error { return m.Delete(ctx, "a") },
		before: map[string]State{"a": Running}, after: map[string]State{},
	},
	{
		name: "delete of a snapshot", op: opDeleteSnapshot, setup: snapshot,
		run:    func(ctx context.Context, m *Manager) error { return m.DeleteSnapshot(ctx, "s") },
		before: map[string]State{"a": Stopped}, after: map[string]State{"a": Stopped}, snapshotsBefore: []string{"s"},
	},
}

func second[T any](_ T, err error) error { return err }

// testSpec is site.spec for who has only the Manager.
func testSpec(m *Manager) Spec {
	s := site{dir: filepath.Dir(m.data.root), work: testWork()}
	s.kernel = filepath.Join(s.dir, "kernel.in")
	return s.spec()
}

func testWork() guest.Workload {
	w := guest.Default(64)
	w.Words = 8
	return w
}

// The situations. Each makes what it needs out of an empty data directory.

func must[T any](s *site, v T, err error) T {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func stopped(s *site, m *Manager) {
	_, err := m.Create(within(s.t), CreateRequest{Name: "a", Spec: s.spec()})
	must(s, 0, err)
}

func running(s *site, m *Manager) { s.create(m, "a", s.spec()) }

func standby(s *site, m *Manager) {
	running(s, m)
	_, err := m.Standby(within(s.t), "a")
	must(s, 0, err)
}

// lazy is an instance whose memory comes from the pager.
func lazy(s *site, m *Manager) {
	standby(s, m)
	_, err := m.Restore(within(s.t), "a", RestoreRequest{Backend: Uffd})
	must(s, 0, err)
}

// stack is an instance in standby whose image has two layers.
func stack(s *site, m *Manager) {
	lazy(s, m)
	s.ask(m, "a", guest.CommandWrite, guest.Write)
	_, err := m.Standby(within(s.t), "a")
	must(s, 0, err)
}

func standbyFork(s *site, m *Manager) {
	standby(s, m)
	ctx := within(s.t)
	_, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}, Target: Standby})
	must(s, 0, err)
	must(s, 0, m.Delete(ctx, "a"))
}

func pausedFork(s *site, m *Manager) {
	standbyFork(s, m)
	_, err := m.Restore(within(s.t), "f", RestoreRequest{Paused: true})
	must(s, 0, err)
}

func snapshot(s *site, m *Manager) {
	running(s, m)
	ctx := within(s.t)
	_, err := m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"})
	must(s, 0, err)
	_, err = m.Stop(ctx, "a", StopRequest{})
	must(s, 0, err)
}

// forkSnapshot is a snapshot of a stack, taken of a fork that has gone on since, and
// whose guest has not been told its address.
func forkSnapshot(s *site, m *Manager) {
	stack(s, m)
	ctx := within(s.t)
	_, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}, Target: Standby})
	must(s, 0, err)
	must(s, 0, m.Delete(ctx, "a"))
	_, err = m.CreateSnapshot(ctx, "f", SnapshotRequest{Name: "s"})
	must(s, 0, err)
	_, err = m.Restore(ctx, "f", RestoreRequest{Paused: true})
	must(s, 0, err)
	_, err = m.Standby(ctx, "f")
	must(s, 0, err)
}

// empty removes everything.
func (s *site) empty(m *Manager) {
	s.t.Helper()
	ctx := within(s.t)
	for _, i := range m.List() {
		must(s, 0, m.Delete(ctx, i.ID))
	}
	for _, snap := range m.Snapshots() {
		must(s, 0, m.DeleteSnapshot(ctx, snap.ID))
	}
	s.mustBeEmpty(m)
}

// states returns the states of all instances by name.
func states(m *Manager) map[string]State {
	all := map[string]State{}
	for _, i := range m.List() {
		all[i.Name] = i.State
	}
	return all
}

func snapshotNames(m *Manager) []string {
	var names []string
	for _, s := range m.Snapshots() {
		names = append(names, s.Name)
	}
	return names
}

// is reports whether the Manager is where a scenario is before or after it.
func (c scenario) is(m *Manager, after bool) bool {
	want, snapshots := c.before, c.snapshotsBefore
	if after {
		want, snapshots = c.after, c.snapshotsAfter
	}
	return maps.Equal(want, states(m)) && slices.Equal(snapshots, snapshotNames(m))
}

// audit fails unless processes, sessions and files are exactly those of the instances
// and snapshots that there are.
func (s *site) audit(m *Manager) {
	s.t.Helper()
	var pids []int
	var sessions, dirs, snapshots []string
	captures := map[string]string{}
	for _, i := range m.List() {
		dirs = append(dirs, i.ID)
		if i.PID != 0 {
			pids = append(pids, i.PID)
		}
		if i.Session != "" {
			sessions = append(sessions, i.Session)
		}
		if i.Capture != nil {
			captures[i.ID] = i.Capture.ID
		}
	}
	for _, snap := range m.Snapshots() {
		snapshots = append(snapshots, snap.ID)
	}
	s.auditTaps(m)
	same(s.t, "VMMs", pids, s.vmms())
	// A session notices the end of its VMM by itself, and has then ended.
	for wait := time.Millisecond; wait < time.Minute; wait *= 2 {
		if len(s.sessions()) == len(sessions) {
			break
		}
		time.Sleep(wait)
	}
	same(s.t, "sessions", sessions, s.sessions())
	same(s.t, "instances", dirs, s.names("instances"))
	same(s.t, "snapshots", snapshots, s.names("snapshots"))
	s.auditSockets(m)
	for _, id := range dirs {
		want := []string{}
		if c := captures[id]; c != "" {
			want = append(want, c)
		}
		same(s.t, "captures of "+id, want, s.names("instances/"+id+"/captures"))
	}
	for _, name := range tree(s.t, s.cfg.DataDir) {
		base := filepath.Base(name)
		if strings.HasPrefix(base, ".new-") || strings.HasPrefix(base, ".trash-") || atomicfile.IsTemporary(base) || base == disksBefore {
			s.t.Errorf("%s is left", name)
		}
	}
	if n := len(m.admission); n > 0 {
		s.t.Errorf("%d places for restores are taken", n)
	}
}

// auditSockets fails if an instance without a VMM has a socket in its directory.
func (s *site) auditSockets(m *Manager) {
	s.t.Helper()
	for _, i := range m.List() {
		entries, err := os.ReadDir(i.Dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Type() == fs.ModeSocket && i.PID == 0 {
				s.t.Errorf("%s is %s and has the socket %s", i.Name, i.State, e.Name())
			}
		}
	}
}

func (s *site) names(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(s.cfg.DataDir, dir))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// same compares two sets.
func same[T cmp.Ordered](t testing.TB, what string, want, got []T) {
	t.Helper()
	want, got = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))
	if !slices.Equal(want, got) {
		t.Errorf("%s: known are %v, found are %v", what, want, got)
	}
}

// verify has every running guest check its memory.
func (s *site) verify(m *Manager) {
	s.t.Helper()
	for _, i := range m.List() {
		if i.State == Running {
			s.ask(m, i.ID, guest.CommandCheck, guest.Check)
		}
	}
}

// TestScenarios runs each scenario without a failure, and makes sure that together
// they meet every step.
func TestScenarios(t *testing.T) {
	met := map[string]bool{}
	s := newSite(t)
	m := s.open()
	for _, c := range scenarios {
		c.setup(s, m)
		if !c.is(m, false) {
			t.Fatalf("%s: set up %v %v", c.name, states(m), snapshotNames(m))
		}
		events := m.Subscribe()
		if err := c.run(within(t), m); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		events.Close()
		for e := range events.C {
			if e.Kind == EventStep {
				met[point(e.Operation, e.Step)] = true
			}
		}
		if !c.is(m, true) {
			t.Fatalf("%s: became %v %v", c.name, states(m), snapshotNames(m))
		}
		s.audit(m)
		s.verify(m)
		s.empty(m)
	}
	for _, name := range Failpoints() {
		if at := strings.TrimSuffix(name, behind); !met[at] {
			t.Errorf("no scenario meets %s", at)
		}
	}
	for at := range met {
		if !slices.Contains(Failpoints(), at) {
			t.Errorf("the step %s is not in the table", at)
		}
	}
}
