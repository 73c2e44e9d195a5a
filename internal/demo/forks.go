package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/pager/control"
)

// runForks restores all forks, has them verify, measures and ends them.
func (d *demo) runForks(ctx context.Context) (result *Result, err error) {
	if d.cfg.KillPager > 0 {
		d.pager.startKilling(ctx)
	}
	// Whatever fails, nobody is killed or watched while everything is ended.
	defer func() { err = errors.Join(err, d.pager.stopKilling(ctx)) }()
	defer d.pager.watch(ctx, d.cfg.WatchPager)()

	forks := make([]*fork, d.cfg.Forks)
	for i := range forks {
		forks[i] = newFork(i + 1)
	}
	defer func() { err = errors.Join(err, endTalks(forks)) }()

	d.each(ctx, "restored", forks, func(f *fork) error { return d.restore(ctx, f) })
	d.each(ctx, "verified", forks, func(f *fork) error { return d.verify(ctx, f) })
	if d.cfg.KillPager > 0 {
		d.sufferKills(ctx, forks)
		if err := d.pager.stopKilling(ctx); err != nil {
			return nil, err
		}
	}
	d.each(ctx, "", forks, d.measure)
	if ctx.Err() != nil {
		return nil, interrupted(ctx, forks)
	}
	var stats control.PagerStats
	if d.pager != nil {
		if stats, err = d.pager.Stats(ctx); err != nil {
			return nil, err
		}
	}
	return d.summarize(forks, stats), nil
}

// each does one step of every fork that has not failed, some at the same time.
func (d *demo) each(ctx context.Context, step string, forks []*fork, do func(*fork) error) {
	var todo []*fork
	for _, f := range forks {
		if f.err == nil {
			todo = append(todo, f)
		}
	}
	var done atomic.Int64
	inParallel(d.cfg.Parallel, todo, func(f *fork) {
		if ctx.Err() != nil {
			f.err = errNotBegun
			return
		}
		f.err = do(f)
		switch {
		case ctx.Err() != nil:
			// One message about that is enough.
		case f.err != nil:
			d.progress.say("%s: %v", f.name, f.err)
		case step != "":
			d.progress.count(step, int(done.Add(1)), len(forks))
		}
	})
}

// errNotBegun fails a fork whose next step was not begun because the context ended.
var errNotBegun = errors.New("the demonstration was interrupted")

// interrupted returns why the context ended and, where a fork was at work then,
// what it was doing.
func interrupted(ctx context.Context, forks []*fork) error {
	cause := context.Cause(ctx)
	for _, f := range forks {
		switch {
		case f.err == nil || errors.Is(f.err, errNotBegun):
		case errors.Is(f.err, cause):
			return fmt.Errorf("%s: %w", f.name, f.err)
		default:
			return fmt.Errorf("%w (%s: %w)", cause, f.name, f.err)
		}
	}
	return cause
}

func endTalks(forks []*fork) error {
	var errs []error
	for _, f := range forks {
		if f.talk != nil {
			errs = append(errs, f.talk.Close())
		}
	}
	return errors.Join(errs...)
}

// endAll deletes whatever instance there is, also when the context of the run has
// ended.
func (d *demo) endAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	inParallel(d.cfg.Parallel, d.manager.List(), func(i instance.Instance) {
		if err := d.manager.Delete(ctx, i.ID); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	})
	return errors.Join(errs...)
}

// inParallel calls do for every item, at most limit calls at the same time.
func inParallel[T any](limit int, items []T, do func(T)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, limit)
	for _, item := range items {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	group.Wait()
}

// sameSeeds marks forks that drew the seed of a sibling as failed: they would
// have written the same pages, and one could pass for the other.
func sameSeeds(forks []*fork) {
	owner := map[uint64]*fork{}
	for _, f := range forks {
		if f.err != nil || f.verdict.seed == 0 {
			continue
		}
		if other := owner[f.verdict.seed]; other != nil {
			f.err = fmt.Errorf("it wrote the same pages as %s: both drew seed %#x", other.name, f.verdict.seed)
		}
		owner[f.verdict.seed] = f
	}
}
