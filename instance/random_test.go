package instance

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
)

// twin is what the model knows of an instance: its state, how often its guest has
// written, and how often it had at the newest capture.
type twin struct {
	state      State
	pass, then uint64
	captured   bool
}

// random does operations at random and keeps the model beside.
type random struct {
	*site
	m     *Manager
	rand  *rand.Rand
	twins map[string]*twin
	made  int
}

// TestRandom compares instances with a model after each of many random operations,
// restarts of the manager among them. What an operation does to the state comes from
// the table; what it does to the guest's memory, the guest counts itself.
func TestRandom(t *testing.T) {
	r := newRandom(t, Upkeep{})
	r.live()
	r.audit(r.m)
	r.empty(r.m)
}

// newRandom returns an empty site whose manager is closed with the test.
func newRandom(t *testing.T, upkeep Upkeep) *random {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := newSite(t)
	s.cfg.Backend, s.cfg.Upkeep = Auto, upkeep
	r := &random{site: s, m: s.reopen(nil), rand: rand.New(rand.NewPCG(seed, 0)), twins: map[string]*twin{}}
	t.Cleanup(func() {
		if err := r.m.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// live does many operations and compares after each.
func (r *random) live() {
	r.t.Helper()
	steps := 120
	if testing.Short() {
		steps = 30
	}
	for n := range steps {
		did := r.step()
		if got, want := states(r.m), r.states(); !maps.Equal(got, want) {
			r.t.Fatalf("step %d, %s: %v, want %v", n, did, got, want)
		}
		if r.t.Failed() {
			r.t.Fatalf("step %d, %s", n, did)
		}
	}
}

func (r *random) states() map[string]State {
	all := map[string]State{}
	for name, twin := range r.twins {
		all[name] = twin.state
	}
	return all
}

// step does one thing and says what.
func (r *random) step() string {
	names := slices.Sorted(maps.Keys(r.twins))
	if len(names) == 0 || len(names) < 5 && r.rand.IntN(8) == 0 {
		r.made++
		name := fmt.Sprintf("i%d", r.made)
		_, err := r.m.Create(within(r.t), CreateRequest{Name: name, Spec: r.spec()})
		must(r.site, 0, err)
		r.twins[name] = &twin{state: Stopped}
		return "create " + name
	}
	name := names[r.rand.IntN(len(names))]
	it := r.twins[name]
	switch n := r.rand.IntN(16); {
	case n == 0:
		must(r.site, 0, r.m.Close())
		r.m = r.reopen(nil)
		return "restart"
	case n == 1 && it.state == Running:
		i, err := r.m.Get(name)
		must(r.site, 0, err)
		must(r.site, 0, syscall.Kill(i.PID, syscall.SIGKILL))
		must(r.site, 0, second(r.m.Wait(within(r.t), name, Failed)))
		it.state = Failed
		return "kill " + name
	case n < 6 && it.state == Running:
		r.ask(r.m, name, guest.CommandWrite, guest.Write)
		it.pass++
		if got := r.ask(r.m, name, guest.CommandCheck, guest.Check).Pass; got != it.pass {
			r.t.Errorf("%s has written %d times, want %d", name, got, it.pass)
		}
		return "write " + name
	}
	ops := []Operation{OpStart, OpStop, OpPause, OpResume, OpStandby, OpStandby, OpRestore, OpRestore, OpFork, OpFork, OpSnapshot, OpDelete}
	op := ops[r.rand.IntN(len(ops))]
	r.do(name, it, op)
	return string(op) + " " + name
}

// do does an operation on an instance and on its twin.
func (r *random) do(name string, it *twin, op Operation) {
	ctx := within(r.t)
	next, allowed := Outcome(it.state, op)
	if op == OpFork && len(r.twins) >= 6 {
		return // enough of them
	}
	allowed = allowed && (op != OpRestore || it.captured)
	child := ""
	err := map[Operation]func(context.Context) error{
		OpStart:   func(ctx context.Context) error { return second(r.m.Start(ctx, name)) },
		OpStop:    func(ctx context.Context) error { return second(r.m.Stop(ctx, name, StopRequest{})) },
		OpPause:   func(ctx context.Context) error { return second(r.m.Pause(ctx, name)) },
		OpResume:  func(ctx context.Context) error { return second(r.m.Resume(ctx, name)) },
		OpStandby: func(ctx context.Context) error { return second(r.m.Standby(ctx, name)) },
		OpRestore: func(ctx context.Context) error { return second(r.m.Restore(ctx, name, RestoreRequest{})) },
		OpFork: func(ctx context.Context) error {
			r.made++
			child = fmt.Sprintf("i%d", r.made)
			return second(r.m.Fork(ctx, ForkRequest{Source: name, Names: []string{child}}))
		},
		OpSnapshot: func(ctx context.Context) error {
			return second(r.m.CreateSnapshot(ctx, name, SnapshotRequest{}))
		},
		OpDelete: func(ctx context.Context) error { return r.m.Delete(ctx, name) },
	}[op](ctx)
	if allowed != (err == nil) || err != nil && code(err) != CodeWrongState {
		r.t.Errorf("%s %s when %s: %v", op, name, it.state, err)
	}
	if err != nil {
		return
	}
	before := it.state
	it.state = next
	switch {
	case op == OpDelete:
		delete(r.twins, name)
	case op == OpStart:
		r.await(r.m, name, guest.Ready)
		it.pass, it.captured = 0, false
	case op == OpStop:
		it.captured = false
	case op == OpStandby && before != Standby, (op == OpFork || op == OpSnapshot) && before != Standby:
		it.then, it.captured = it.pass, true
	case op == OpRestore:
		it.pass = it.then
	}
	if child != "" {
		r.twins[child] = &twin{state: Running, pass: it.then, then: it.then, captured: true}
	}
}
