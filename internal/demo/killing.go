package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// The pager is killed at random moments: this long, and the time that it took to come
// back before, after it came back. So guests get on also where the host is overloaded.
const (
	killPauseMin = 10 * time.Millisecond
	killPauseMax = 300 * time.Millisecond
)

// killer ends the pager with SIGKILL again and again, while its supervisor starts it
// anew. A nil killer never does.
type killer struct {
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // held while it kills: what is counted has happened
	kills int        // protected by mu
	last  int        // the process that was killed last, protected by mu
}

// startKilling begins to kill the pager.
func (p *pager) startKilling(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	k := &killer{stop: cancel, done: make(chan struct{})}
	p.killer = k
	go func() {
		defer close(k.done)
		for dead := time.Duration(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-p.Over():
				return
			case <-time.After(killPauseMin + rand.N(killPauseMax-killPauseMin) + dead):
			}
			k.kill(p.PID())
			killed := time.Now()
			if p.awaitRevival(ctx) != nil {
				return // the context is over, or the supervision
			}
			dead = time.Since(killed)
		}
	}()
}

// kill ends a process that was not killed before: a pager that was just killed may
// not have a successor yet, and its number may be another's then.
func (k *killer) kill(pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pid != k.last && syscall.Kill(pid, syscall.SIGKILL) == nil {
		k.last = pid
		k.kills++
	}
}

// count returns how often the pager was killed.
func (k *killer) count() int {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kills
}

func (k *killer) victim() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// stopKilling stops the killing and waits until the pager answers again, also when
// ctx has ended: it has guests and sessions to end.
func (p *pager) stopKilling(ctx context.Context) error {
	if p == nil || p.killer == nil {
		return nil
	}
	p.killer.stop()
	<-p.killer.done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return p.awaitRevival(ctx)
}

// awaitRevival waits until a pager answers that was not killed, and until the supervisor
// has counted it: the pager answers first.
func (p *pager) awaitRevival(ctx context.Context) error {
	for {
		h, err := p.Health(ctx)
		if st := p.Status(); err == nil && h.PID != p.killer.victim() && st.State == supervisor.Watching && st.PID == h.PID {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-p.Over():
			return p.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// restoreAttempts bounds how often the restore of a fork is begun that failed while
// the pager was killed: between the VMM's connection and the first entry of the
// session's journal, with the only descriptor of the memory, or right when the VMM
// wanted to connect. The manager has undone the fork then. A fork whose restore has
// succeeded once is never begun again.
const restoreAttempts = 30

// restoreTime bounds one attempt: the manager gives a VMM whose handshake was lost the
// whole time that a session has for being connected to.
const restoreTime = 5 * time.Second

// bear makes a fork that runs.
func (d *demo) bear(ctx context.Context, f *fork) error {
	if d.pager == nil || d.pager.killer == nil {
		return d.bearOnce(ctx, f)
	}
	for attempt := 1; ; attempt++ {
		kills := d.pager.killer.count()
		err := d.bearAmidKills(ctx, f)
		if err == nil || ctx.Err() != nil || attempt == restoreAttempts || d.pager.killer.count() == kills {
			return err
		}
		d.repeated.Add(1)
	}
}

func (d *demo) bearAmidKills(ctx context.Context, f *fork) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	if err := d.pager.awaitRevival(ctx); err != nil {
		return err
	}
	return d.bearOnce(ctx, f)
}

func (d *demo) bearOnce(ctx context.Context, f *fork) error {
	forks, err := d.manager.ForkSnapshot(ctx, snapshotName, instance.ForkRequest{Names: []string{f.name}, Backend: d.cfg.Backend})
	if err != nil {
		return err
	}
	f.instance = forks[0].Instance
	return nil
}

// persist asks the manager to do something with a fork that runs or is paused, again
// where it could not tell that because the pager was dead.
func (d *demo) persist(ctx context.Context, f *fork, do func(ctx context.Context, ref string) (instance.Instance, error)) error {
	for {
		_, err := do(ctx, f.instance.ID)
		if d.pager == nil || d.pager.killer == nil || !errors.Is(err, &problem.Problem{Code: instance.CodeWrongState}) {
			return err
		}
		now, waitErr := d.manager.Wait(ctx, f.instance.ID, instance.Running, instance.Paused, instance.Failed)
		if waitErr != nil || now.State == instance.Failed {
			return err
		}
	}
}

// sufferKills has the forks check their memory until the pager was killed often enough.
func (d *demo) sufferKills(ctx context.Context, forks []*fork) {
	for d.pager.killer.count() < d.cfg.KillPager && ctx.Err() == nil {
		d.each(ctx, "", forks, func(f *fork) error {
			if err := d.persist(ctx, f, d.manager.Resume); err != nil {
				return fmt.Errorf("resume: %w", err)
			}
			return d.verify(ctx, f)
		})
	}
}
