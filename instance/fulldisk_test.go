package instance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/syscallfault"
)

// takesRoom tells whether a call can find the disk full.
func takesRoom(c syscallfault.Call) bool {
	return !slices.Contains([]string{"unlinkat", "fchmod", "fchmodat"}, c.Name)
}

// forkHere is Manager.Fork of an instance in standby, with the fork made on the
// caller's goroutine: only there calls fail.
func forkHere(ctx context.Context, m *Manager, req ForkRequest) error {
	e, err := m.find(req.Source)
	if err != nil {
		return err
	}
	source := e.describe()
	b, err := m.newBrood(ctx, req, source.Spec, source.Name)
	if err != nil {
		return err
	}
	defer b.release()
	b.origin, b.from = Origin{Instance: e.id}, e.dir
	if err := e.gate.share(ctx); err != nil {
		return err
	}
	done := sync.OnceFunc(e.gate.unshare)
	defer done()
	c, err := capture.Open(e.captureDir(source.Capture.ID))
	if err == nil {
		err = b.use(c)
	}
	if err != nil {
		return err
	}
	return b.bear(b.forks[0], done).Err
}

// TestFullDisk finds the disk full at each write of the operations that write. Each
// fails, names the step and is as if it had never been; nothing is lost or left.
func TestFullDisk(t *testing.T) {
	forked := scenario{
		name: "fork here", op: OpFork, setup: standby,
		run: func(ctx context.Context, m *Manager) error {
			return forkHere(ctx, m, ForkRequest{Source: "a", Names: []string{"f"}, Backend: File})
		},
		before: map[string]State{"a": Standby}, after: map[string]State{"a": Standby, "f": Running},
	}
	met := map[string]bool{}
	for _, c := range append([]scenario{forked}, scenarios...) {
		if c.op == OpFork && c.name != forked.name {
			continue // made on other goroutines
		}
		if testing.Short() && c.name != "standby" && c.name != forked.name {
			continue // under the race detector, where it takes long
		}
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			m := s.open()
			fresh := true
			for n := 0; ; n++ {
				if fresh {
					s.empty(m)
					c.setup(s, m)
				}
				var reached bool
				fresh, reached = s.fullAt(m, c, n, met)
				if t.Failed() || !reached {
					break
				}
			}
			if !t.Failed() {
				s.verify(m)
			}
		})
	}
	for _, name := range []string{"write", "openat", "fsync", "renameat", "mkdirat", "linkat"} {
		if !met[name] && !t.Failed() {
			t.Errorf("no %s found the disk full; met %v", name, met)
		}
	}
}

// fullAt runs a scenario whose n-th write finds the disk full, and reports whether it
// succeeded, and whether it came that far.
func (s *site) fullAt(m *Manager, c scenario, n int, met map[string]bool) (succeeded, reached bool) {
	s.t.Helper()
	var at syscallfault.Call
	seq := &syscallfault.Sequence{N: n, Only: takesRoom, Hit: func(call syscallfault.Call) syscallfault.Errno {
		at = call
		met[call.Name] = true
		return unix.ENOSPC
	}}
	var err error
	if run := syscallfault.Run(seq.Decide, func() { err = c.run(within(s.t), m) }); errors.Is(run, syscallfault.ErrUnsupported) {
		s.t.Skip(run)
	} else if run != nil {
		s.t.Fatal(run)
	}
	// A disk that could not be brought to disk is not worth a second attempt, and the
	// code does not ask for one.
	full := code(err) == CodeNoSpace || at.Name == "fsync" && code(err) == CodeStepFailed && strings.Contains(err.Error(), "sync disk")
	names := func(step string) bool { return strings.Contains(err.Error(), ": "+step+": ") }
	switch {
	case err != nil && !c.is(m, false):
		s.t.Errorf("%+v: it failed (%v) and left %v %v", at, err, states(m), snapshotNames(m))
	case err == nil && !c.is(m, true):
		s.t.Errorf("%+v: it succeeded and left %v %v", at, states(m), snapshotNames(m))
	case err != nil && (!full || !slices.ContainsFunc(operationSteps[c.op], names)):
		s.t.Errorf("%+v: the error does not name the step, or is %s: %v", at, code(err), err)
	}
	s.audit(m)
	if s.t.Failed() {
		s.t.Logf("the write was %+v, the error %v", at, err)
	}
	return err == nil, seq.Reached()
}
