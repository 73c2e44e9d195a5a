package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// runForks restores all forks, has them verify, measures and ends them.
func (d *demo) runForks(ctx context.Context, c captured) (result *Result, err error) {
	pager, stop, err := d.startPager(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	forks := make([]*fork, d.cfg.Forks)
	for i := range forks {
		forks[i] = newFork(uint64(i) + 1)
	}
	ended := false
	end := func() error {
		if ended {
			return nil
		}
		ended = true
		return d.endAll(ctx, forks, pager)
	}
	defer func() { err = errors.Join(err, end()) }()

	d.each(ctx, "restored", forks, pager, func(f *fork) error { return d.restore(ctx, f, c, pager) })
	d.each(ctx, "verified", forks, pager, func(f *fork) error { return d.verify(ctx, f) })
	if d.killer != nil {
		d.sufferKills(ctx, forks, pager)
		if err := d.killer.end(ctx, pager); err != nil {
			return nil, err
		}
	}
	d.each(ctx, "", forks, pager, d.measure)
	if ctx.Err() != nil {
		return nil, interrupted(ctx, forks)
	}
	var stats control.PagerStats
	if pager != nil {
		if stats, err = pager.Stats(ctx); err != nil {
			return nil, err
		}
	}
	// A VMM or session that does not end is a failure of the demonstration too.
	if err := end(); err != nil {
		return nil, err
	}
	return d.summarize(forks, stats), nil
}

// each does one step of every fork that has not failed, some at the same time.
func (d *demo) each(ctx context.Context, step string, forks []*fork, pager *client.Client, do func(*fork) error) {
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
		f.explain(ctx, pager)
		switch {
		case ctx.Err() != nil:
			// One message about that is enough.
		case f.err != nil:
			d.progress.say("%s: %v", f.id, f.err)
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
			return fmt.Errorf("%s: %w", f.id, f.err)
		default:
			return fmt.Errorf("%w (%s: %w)", cause, f.id, f.err)
		}
	}
	return cause
}

func (d *demo) endAll(ctx context.Context, forks []*fork, pager *client.Client) error {
	var mu sync.Mutex
	var errs []error
	inParallel(d.cfg.Parallel, forks, func(f *fork) {
		if err := d.end(ctx, f, pager); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	})
	return errors.Join(errs...)
}

// inParallel calls do for every fork, at most limit calls at the same time.
func inParallel(limit int, forks []*fork, do func(*fork)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, limit)
	for _, f := range forks {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			do(f)
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
			f.err = fmt.Errorf("it wrote the same pages as %s: both drew seed %#x", other.id, f.verdict.seed)
		}
		owner[f.verdict.seed] = f
	}
}
