package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/leftover"
	"github.com/faultline-vm/faultline/pager/control"
)

// trial is one run of a cell.
type trial struct {
	cell    Cell
	host    *host
	dir     string
	source  *source
	driver  *firecracker.Driver
	random  *rand.Rand // the event's goroutine alone uses it once the forks run
	atHit   int        // which meeting with the failpoint kills
	places  []*place   // the first is where sessions go
	witness *witness

	over         chan struct{} // closed when the event is over
	began, ended chan struct{} // of the detach or the capture
	died         atomic.Bool   // a pager was killed on purpose
	mid          bool          // the event came while a detach or a capture was under way
	right        atomic.Uint64 // pages
	repeated     atomic.Int64  // loads

	mu    sync.Mutex
	forks []*fork // protected by mu
}

// operation reports whether one of the forks is detached or captured.
func (t *trial) operation() bool { return t.cell.Work == midDetach || t.cell.Work == midCapture }

// failpoint is what the pager that is to crash is told.
func (t *trial) failpoint() string { return fmt.Sprintf("%s=crash@%d", t.cell.point(), t.atHit) }

func (t *trial) isOver() bool { return isClosed(t.over) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// noteMoment remembers whether the event came in the middle.
func (t *trial) noteMoment() { t.mid = isClosed(t.began) && !isClosed(t.ended) }

// pagerDied reports whether a pager of the cell has died, of which a VMM may learn
// before anybody else.
func (t *trial) pagerDied() bool {
	if t.cell.Event == eventUpgrade || t.cell.Event == eventDowngrade || t.cell.Event == eventDrain {
		return false
	}
	for range 100 {
		if t.died.Load() {
			return true
		}
		for _, pl := range t.places {
			if isClosed(pl.last.Exited()) {
				return true
			}
		}
		time.Sleep(patience)
	}
	return false
}

// run does everything that a cell does. What it has started it ends, also after an error.
func (t *trial) run(ctx context.Context) (err error) {
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return err
	}
	t.over, t.began, t.ended = make(chan struct{}), make(chan struct{}), make(chan struct{})
	if t.cell.point() != "" {
		t.atHit = t.hit()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.abandon(ctx))
		}
	}()
	if err := t.openPlaces(ctx, filepath.Join(t.dir, "data")); err != nil {
		return err
	}
	if t.witness, err = t.attachWitness(ctx); err != nil {
		return err
	}
	if err := t.burst(ctx); err != nil {
		return err
	}
	if err := t.witness.testify(ctx); err != nil {
		return err
	}
	for _, f := range t.forks {
		if err := f.alive(); err != nil {
			return err
		}
	}
	return t.endAll(ctx)
}

// openPlaces starts the pagers.
func (t *trial) openPlaces(ctx context.Context, data string) error {
	programs := []program{t.host.pager}
	if t.cell.twoPagers() {
		programs = append(programs, t.host.later)
	}
	if t.cell.Event == eventDowngrade {
		programs[0], programs[1] = programs[1], programs[0]
	}
	for i, p := range programs {
		failpoints := ""
		switch occasion := t.cell.occasion(); {
		case t.cell.point() == "":
		case i == 0 && (occasion == serving || occasion == giving), i == 1 && occasion == taking:
			failpoints = t.failpoint()
		}
		pl, err := open(ctx, p, data, failpoints)
		if err != nil {
			return err
		}
		t.places = append(t.places, pl)
		if t.cell.occasion() == adoption {
			continue // the event does it
		}
		if err := pl.supervise(ctx); err != nil {
			return err
		}
	}
	return nil
}

// burst restores the forks, has them work, and makes the event happen meanwhile.
func (t *trial) burst(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var running sync.WaitGroup
	start := func(what string, do func(context.Context) error) {
		running.Go(func() {
			if err := do(ctx); err != nil {
				fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	for i := range t.cell.forks() {
		f := t.newFork(uint64(i)+1, t.source.capture)
		start(f.id, func(ctx context.Context) error {
			if err := f.begin(ctx); err != nil {
				return err
			}
			if f.number == 1 && t.operation() {
				start(t.cell.Work+" of "+f.id, f.operate)
			}
			return f.work(ctx)
		})
	}
	start("the event", func(ctx context.Context) error {
		defer close(t.over)
		return t.disturb(ctx)
	})
	running.Wait()
	return context.Cause(ctx)
}

// operate detaches or captures the fork.
func (f *fork) operate(ctx context.Context) error {
	close(f.began)
	if f.cell.Work == midDetach {
		defer close(f.ended)
		return f.detach(ctx)
	}
	taken, err := capture.Take(ctx, capture.Request{
		VMM: f.vmm, Hypervisor: f.driver.Describe(), Lineage: capture.Restored(f.capture, false),
	})
	close(f.ended)
	if err != nil {
		return err
	}
	// What was captured meanwhile must be right as well.
	late := f.newFork(uint64(f.cell.forks())+1, taken.Capture)
	if err := late.begin(ctx); err != nil {
		return fmt.Errorf("%s, of the capture: %w", late.id, err)
	}
	return late.work(ctx)
}

// detach asks for it until it is done. A pager that dies may have answered nobody.
func (f *fork) detach(ctx context.Context) error {
	for {
		there, err := f.detachOnce(ctx)
		if err == nil && !there {
			return nil
		}
		if waitErr := sleep(ctx, patience); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}

// detachOnce asks the pager that has the session. There reports whether one may have
// it still.
func (f *fork) detachOnce(ctx context.Context) (there bool, err error) {
	for _, pl := range f.places {
		list, err := pl.Sessions(ctx)
		if err != nil {
			if pl.over() {
				continue
			}
			return true, err
		}
		for _, s := range list {
			if s.ID != f.id || !s.State.Active() {
				continue
			}
			if _, err := pl.Detach(ctx, f.id); err != nil {
				return true, err
			}
		}
	}
	return false, nil
}

// endAll ends the guests, and looks whether everything else is gone then.
func (t *trial) endAll(ctx context.Context) error {
	// One pager at most has a session; which one that is differs.
	if err := t.checkOwners(ctx); err != nil {
		return err
	}
	errs := []error{t.witness.process.Kill()}
	for _, f := range t.forks {
		errs = append(errs, f.end(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, pl := range t.places {
		if err := pl.awaitEmpty(ctx); err != nil {
			return err
		}
	}
	for _, pl := range t.places {
		if err := pl.stop(ctx); err != nil {
			return err
		}
	}
	return checkLeftovers(t.dir)
}

// checkOwners looks whether each guest that was not detached has one session.
func (t *trial) checkOwners(ctx context.Context) error {
	owners := map[string]int{}
	for _, pl := range t.places {
		list, err := pl.list(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.State.Active() {
				owners[s.ID]++
			}
		}
	}
	want := map[string]int{witnessID: 1}
	for _, f := range t.forks {
		want[f.id] = 1
		if f.number == 1 && t.cell.Work == midDetach {
			delete(want, f.id)
		}
	}
	for id, n := range owners {
		if n != want[id] {
			return fmt.Errorf("session %q is served by %d pagers instead of %d", id, n, want[id])
		}
	}
	if len(owners) != len(want) {
		return fmt.Errorf("%d sessions are served instead of %d", len(owners), len(want))
	}
	return nil
}

// awaitEmpty waits until the pager has no session and no more files open than before
// the first. A pager that has been drained has neither.
func (pl *place) awaitEmpty(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cleanUpTime, errors.New("a leak"))
	defer cancel()
	for {
		active, err := pl.count(ctx, control.State.Active)
		if err != nil {
			return err
		}
		pl.closeConnections()
		var files int
		err = pl.ask(ctx, func() error {
			stats, err := pl.Stats(ctx)
			files = stats.Process.OpenFiles
			return err
		})
		if errors.Is(err, errOver) || err == nil && active == 0 && files <= pl.files {
			return nil
		}
		if waitErr := sleep(ctx, 10*patience); waitErr != nil {
			return fmt.Errorf("the pager %s: %w: %d sessions, %d open files instead of %d", pl.options.Version, waitErr, active, files, pl.files)
		}
	}
}

// abandon ends what a failed trial has started, and returns the end of the pagers'
// logs.
func (t *trial) abandon(ctx context.Context) error {
	if t.witness != nil {
		_ = t.witness.process.Kill()
	}
	for _, f := range t.forks {
		_ = f.end(ctx)
	}
	var logs []error
	for _, pl := range t.places {
		logs = append(logs, fmt.Errorf("log of the pager %s:\n%s", pl.options.Version, pl.log()))
		pl.abandon()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	// What is left is a pager, for one, that a supervisor was just starting.
	return errors.Join(append(logs, leftover.End(ctx, t.dir))...)
}
