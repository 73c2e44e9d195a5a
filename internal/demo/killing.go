package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// The pager is killed at random moments, this far apart.
const (
	killPauseMin = 10 * time.Millisecond
	killPauseMax = 300 * time.Millisecond
)

// killer ends the pager with SIGKILL again and again, while a supervisor starts it
// anew. A nil killer never does.
type killer struct {
	kills atomic.Int64
	stop  context.CancelFunc
	done  chan struct{}
}

// startKilling begins to kill the pager that the supervisor watches.
func startKilling(ctx context.Context, s *supervisor.Supervisor) *killer {
	ctx, cancel := context.WithCancel(ctx)
	k := &killer{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		last := 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Over():
				return
			case <-time.After(killPauseMin + rand.N(killPauseMax-killPauseMin)):
			}
			// A pager that was just killed may not have a successor yet, and its
			// number may be another's then.
			if pid := s.PID(); pid != last && syscall.Kill(pid, syscall.SIGKILL) == nil {
				last = pid
				k.kills.Add(1)
			}
		}
	}()
	return k
}

// count returns how often the pager was killed.
func (k *killer) count() int {
	if k == nil {
		return 0
	}
	return int(k.kills.Load())
}

// end stops the killing and waits until the pager answers again.
func (k *killer) end(ctx context.Context, pager *client.Client) error {
	if k == nil {
		return nil
	}
	k.stop()
	<-k.done
	return patiently(ctx, func() error {
		_, err := pager.Health(ctx)
		return err
	})
}

// patiently repeats what is asked of a pager that may be dead for the moment.
func patiently(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if answered := new(problem.Problem); err == nil || errors.As(err, &answered) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// loadAttempts bounds how often a restore is begun whose pager died between the
// VMM's connection and the first entry of its journal. The VMM has given its memory to
// nobody then, and is started again; once it is loaded, nothing is repeated any more.
const loadAttempts = 10

// loadTime bounds one attempt: a VMM whose handshake was lost waits for ever.
const loadTime = 5 * time.Second

// load starts the fork's VMM with the capture's state.
func (d *demo) load(ctx context.Context, f *fork, c captured, dir string, pager *client.Client) error {
	for attempt := 1; ; attempt++ {
		kills := d.killer.count()
		err := d.loadOnce(ctx, f, c, dir, pager)
		if err == nil || d.killer == nil || ctx.Err() != nil || attempt == loadAttempts || d.killer.count() == kills {
			return err
		}
		d.repeated.Add(1)
		if err := d.closeSession(ctx, f, pager); err != nil {
			return err
		}
	}
}

func (d *demo) loadOnce(ctx context.Context, f *fork, c captured, dir string, pager *client.Client) error {
	if d.killer != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, loadTime)
		defer cancel()
	}
	memory, err := d.memory(ctx, f, c, dir, pager)
	if err != nil {
		return err
	}
	f.vmm, err = d.hv.Restore(ctx, hypervisor.RestoreSpec{
		Process:   hypervisor.Process{Dir: dir, Input: true},
		StatePath: stateName,
		Memory:    memory,
		Resume:    true,
	})
	return err
}

// createSession opens the fork's session. One that is there already was made by a
// request whose answer got lost.
func (d *demo) createSession(ctx context.Context, f *fork, c captured, pager *client.Client) (s control.Session, err error) {
	overlays, _ := d.guest.identity(f.number)
	req := control.SessionRequest{ID: f.id, Image: c.manifest, Overlays: overlays}
	create := func() error {
		s, err = pager.CreateSession(ctx, req)
		return err
	}
	if d.killer == nil {
		return s, create()
	}
	err = patiently(ctx, create)
	if errors.Is(err, &problem.Problem{Code: "session_exists"}) {
		f.session = true
		if err = d.closeSession(ctx, f, pager); err == nil {
			err = patiently(ctx, create)
		}
	}
	return s, err
}

// closeSession closes the fork's session, if it has one.
func (d *demo) closeSession(ctx context.Context, f *fork, pager *client.Client) error {
	if !f.session {
		return nil
	}
	f.session = false
	return patiently(ctx, func() error {
		_, err := pager.CloseSession(ctx, f.id)
		if errors.Is(err, &problem.Problem{Code: "session_unknown"}) {
			return nil // it was over, and its record died with a pager
		}
		return err
	})
}

// sufferKills has the forks check their memory until the pager was killed often enough.
func (d *demo) sufferKills(ctx context.Context, forks []*fork, pager *client.Client) {
	for d.killer.count() < d.cfg.KillPager && ctx.Err() == nil {
		d.each(ctx, "", forks, pager, func(f *fork) error {
			if err := f.vmm.Resume(ctx); err != nil {
				return fmt.Errorf("resume: %w", err)
			}
			return d.verify(ctx, f)
		})
	}
}

// superviseAndKill starts a pager that is kept alive, and kills it.
func (d *demo) superviseAndKill(ctx context.Context, o supervisor.Options) (*supervisor.Supervisor, error) {
	o.Log = "" // its own, beside its sockets
	s, err := supervisor.Supervise(context.WithoutCancel(ctx), supervisor.Config{
		Options: o, Manager: supervisor.Child,
		Restart: supervisor.Restart{MinDelay: time.Millisecond, MaxDelay: time.Millisecond, Limit: -1},
	})
	if err != nil {
		return nil, err
	}
	d.killer = startKilling(ctx, s)
	return s, nil
}
