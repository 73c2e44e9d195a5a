package instance

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestTableIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+Table()+"\n") {
		t.Errorf("ARCHITECTURE.md does not have the table as it is now:\n%s", Table())
	}
}

// failedInstance is an instance whose VMM was killed and which has a capture.
func failedInstance(s *site, m *Manager) {
	lazy(s, m)
	kill(s, m, syscall.SIGKILL)
	_, err := m.Wait(within(s.t), "a", Failed)
	must(s, 0, err)
}

// unknownInstance is an instance whose VMM does not answer.
func unknownInstance(s *site, m *Manager) {
	snapshot(s, m)
	must(s, 0, second(m.Start(within(s.t), "a")))
	kill(s, m, syscall.SIGSTOP)
	_, err := m.Wait(within(s.t), "a", Unknown)
	must(s, 0, err)
}

func kill(s *site, m *Manager, signal syscall.Signal) {
	s.t.Helper()
	i, err := m.Get("a")
	must(s, 0, err)
	must(s, 0, syscall.Kill(i.PID, signal))
}

// TestTable does every operation in every state and compares with the table.
func TestTable(t *testing.T) {
	s := newSite(t)
	m := s.open()
	setups := map[State]func(*site, *Manager){
		Stopped: stopped, Running: running, Standby: standby, Failed: failedInstance, Unknown: unknownInstance,
		Paused: func(s *site, m *Manager) { running(s, m); must(s, 0, second(m.Pause(within(s.t), "a"))) },
	}
	operations := map[Operation]func(ctx context.Context) error{
		OpStart:     func(ctx context.Context) error { return second(m.Start(ctx, "a")) },
		OpStop:      func(ctx context.Context) error { return second(m.Stop(ctx, "a", StopRequest{})) },
		OpForceStop: func(ctx context.Context) error { return second(m.Stop(ctx, "a", StopRequest{Force: true})) },
		OpPause:     func(ctx context.Context) error { return second(m.Pause(ctx, "a")) },
		OpResume:    func(ctx context.Context) error { return second(m.Resume(ctx, "a")) },
		OpStandby:   func(ctx context.Context) error { return second(m.Standby(ctx, "a")) },
		OpRestore:   func(ctx context.Context) error { return second(m.Restore(ctx, "a", RestoreRequest{})) },
		OpFork:      func(ctx context.Context) error { return second(m.Fork(ctx, ForkRequest{Source: "a", Target: Standby})) },
		OpSnapshot:  func(ctx context.Context) error { return second(m.CreateSnapshot(ctx, "a", SnapshotRequest{})) },
		OpDelete:    func(ctx context.Context) error { return m.Delete(ctx, "a") },
	}
	for _, state := range SettledStates() {
		fresh := true
		for _, op := range slices.DeleteFunc(Operations(), func(op Operation) bool { return op == OpRestoreSnapshot }) {
			if fresh {
				s.empty(m)
				setups[state](s, m)
				mustBe(t, m, "a", state)
			}
			err := operations[op](within(t))
			next, allowed := Outcome(state, op)
			fresh = allowed
			switch {
			case !allowed && code(err) != CodeWrongState:
				t.Errorf("%s when %s: %v, want %s", op, state, err, CodeWrongState)
			case !allowed:
				for _, o := range Allowed(state) {
					if !strings.Contains(err.Error(), string(o)) || !strings.Contains(err.Error(), string(state)) {
						t.Errorf("%s when %s: %v does not name the state and %s", op, state, err, o)
					}
				}
				mustBe(t, m, "a", state)
			case err != nil:
				t.Errorf("%s when %s: %v", op, state, err)
			case next == "":
				if _, err := m.Get("a"); code(err) != CodeNotFound {
					t.Errorf("%s when %s: it is still there: %v", op, state, err)
				}
			default:
				mustBe(t, m, "a", next)
			}
		}
	}
	s.empty(m)
}

// TestRestoreSnapshotByState is the row of the table that needs a snapshot.
func TestRestoreSnapshotByState(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	snapshot(s, m)
	restore := func() error { return second(m.RestoreSnapshot(ctx, "s", RestoreRequest{})) }
	for _, step := range []struct {
		state State
		reach func() error
	}{
		{Stopped, func() error { return nil }},
		{Running, func() error { return nil }},
		{Paused, func() error { return second(m.Pause(ctx, "a")) }},
		{Standby, func() error { return second(m.Standby(ctx, "a")) }},
		{Failed, func() error { kill(s, m, syscall.SIGKILL); return second(m.Wait(ctx, "a", Failed)) }},
		{Unknown, func() error { kill(s, m, syscall.SIGSTOP); return second(m.Wait(ctx, "a", Unknown)) }},
	} {
		if err := step.reach(); err != nil {
			t.Fatal(err)
		}
		mustBe(t, m, "a", step.state)
		next, allowed := Outcome(step.state, OpRestoreSnapshot)
		if err := restore(); allowed != (err == nil) {
			t.Fatalf("when %s: %v", step.state, err)
		}
		if allowed {
			mustBe(t, m, "a", next)
		}
		s.audit(m)
	}
}
