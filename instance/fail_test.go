package instance

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
)

// TestEveryStepFails fails each step of each scenario, before it does anything and
// after it has done everything. Either the operation fails, says where, and is as if
// it had never been, or it succeeds. Nothing may leak.
func TestEveryStepFails(t *testing.T) {
	s := newSite(t)
	m := s.open()
	for _, c := range scenarios {
		fresh := true
		for _, step := range operationSteps[c.op] {
			for _, at := range []string{point(c.op, step), point(c.op, step) + behind} {
				if fresh {
					c.setup(s, m)
				}
				files := openFiles(t)
				fresh = s.failAt(m, c, step, at)
				if fresh {
					s.empty(m)
				} else {
					awaitFiles(t, at, files)
				}
				if t.Failed() {
					t.Fatalf("%s, failing at %s", c.name, at)
				}
			}
		}
		if !fresh {
			// After all that, it still works.
			if err := c.run(within(t), m); err != nil || !c.is(m, true) {
				t.Fatalf("%s, after the failures: %v: %v", c.name, err, states(m))
			}
			s.verify(m)
			s.empty(m)
		}
	}
}

// failAt runs a scenario with a failpoint and reports whether it succeeded.
func (s *site) failAt(m *Manager, c scenario, step, at string) (succeeded bool) {
	s.t.Helper()
	set, err := failpoint.Parse(at+"=error", Failpoints()...)
	if err != nil {
		s.t.Fatal(err)
	}
	m.cfg.Failpoints = set
	err = c.run(within(s.t), m)
	m.cfg.Failpoints = nil
	switch {
	case err != nil && !c.is(m, false):
		s.t.Errorf("it failed (%v) and left %v %v", err, states(m), snapshotNames(m))
	case err == nil && !c.is(m, true):
		s.t.Errorf("it succeeded and left %v %v", states(m), snapshotNames(m))
	case err != nil && (code(err) != CodeStepFailed || !strings.Contains(err.Error(), step) || !strings.Contains(err.Error(), string(c.op))):
		s.t.Errorf("the error does not name the step: %v", err)
	}
	s.audit(m)
	s.verify(m)
	return err == nil
}

// openFiles counts what this process has open, by kind. Sockets are left out: idle
// connections to the pager come and go.
func openFiles(t testing.TB) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, e := range entries {
		name, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(name, "socket:") {
			continue
		}
		if strings.HasPrefix(name, "pipe:") {
			name = "pipe"
		}
		kinds[name]++
	}
	return kinds
}

// awaitFiles waits until nothing is open that was not open before: a VMM that has
// ended is let go of in the background.
func awaitFiles(t testing.TB, at string, before map[string]int) {
	t.Helper()
	var more []string
	for wait := time.Millisecond; wait < 30*time.Second; wait *= 2 {
		more = nil
		for name, n := range openFiles(t) {
			if n > before[name] && !strings.HasSuffix(name, "/fd") {
				more = append(more, fmt.Sprintf("%s (%d, before %d)", name, n, before[name]))
			}
		}
		if len(more) == 0 {
			return
		}
		time.Sleep(wait)
	}
	t.Errorf("%s leaves open: %v", at, more)
}

// TestCanceled ends the context of operations in front of each step.
func TestCanceled(t *testing.T) {
	s := newSite(t)
	m := s.open()
	lazy(s, m)
	for _, op := range []scenario{
		{op: OpStandby, run: func(ctx context.Context, m *Manager) error { return second(m.Standby(ctx, "a")) }},
		{op: OpFork, run: func(ctx context.Context, m *Manager) error {
			return second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}, Backend: Uffd}))
		}},
		{op: OpSnapshot, run: func(ctx context.Context, m *Manager) error {
			return second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"}))
		}},
	} {
		for _, step := range operationSteps[op.op] {
			ctx, cancel := context.WithCancel(within(t))
			events := m.Subscribe()
			go func() {
				defer cancel()
				for e := range events.C {
					if e.Kind == EventStep && e.Operation == op.op && e.Step == step {
						return
					}
				}
			}()
			err := op.run(ctx, m)
			events.Close()
			cancel()
			s.audit(m)
			if err == nil {
				s.empty(m)
				lazy(s, m)
			} else if code(err) != CodeCanceled {
				t.Errorf("%s, canceled at %s: %v", op.op, step, err)
			} else if got := states(m); len(got) != 1 || got["a"] != Running {
				t.Errorf("%s, canceled at %s: left %v", op.op, step, got)
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}
