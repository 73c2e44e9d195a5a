package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// pager is the pager of the demonstration, which ends with it.
type pager struct {
	*supervisor.Supervisor
	release context.CancelFunc // ends the supervision
	killer  *killer            // nil where nobody kills it
}

// startPager starts a pager that is kept alive in dir. The end of ctx does not end
// it, stop does.
func startPager(ctx context.Context, cfg Config, dir string) (*pager, error) {
	binary, err := supervisor.FindBinary(cfg.PagerBinary)
	if err != nil {
		return nil, err
	}
	options := supervisor.Config{
		Options: supervisor.Options{Binary: binary, DataDir: dir}, Manager: supervisor.Child,
	}
	if cfg.KillPager > 0 {
		options.Restart = supervisor.Restart{MinDelay: time.Millisecond, MaxDelay: time.Millisecond, Limit: -1}
	}
	life, release := context.WithCancel(context.WithoutCancel(ctx))
	s, err := supervisor.Supervise(life, options)
	if err != nil {
		release()
		return nil, err
	}
	return &pager{Supervisor: s, release: release}, nil
}

// stop ends the pager, whose guests are gone.
func (p *pager) stop(ctx context.Context) error {
	defer p.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := p.closeSessions(ctx); err != nil {
		return errors.Join(err, p.end())
	}
	err := p.Stop(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, p.end())
	}
	return err
}

// closeSessions closes sessions that are left where a restore failed because the
// pager had just died, and could not be told to close them. It would wait for them.
func (p *pager) closeSessions(ctx context.Context) error {
	sessions, err := p.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if !s.State.Active() {
			continue
		}
		if _, err := p.CloseSession(ctx, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// end kills the pager, for which there is no other end.
func (p *pager) end() error {
	p.release()
	<-p.Over()
	if p.Status().State != supervisor.Released {
		return nil // it is dead already
	}
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the pager: %w", os.NewSyscallError("kill", err))
	}
	return nil
}

// diedByItself returns how often the pager died that nobody had killed.
func (p *pager) diedByItself() int { return p.Status().Restarts - p.killer.count() }

// watch starts the watcher of the pager, if there is one, and returns what ends it.
func (p *pager) watch(ctx context.Context, watcher func(context.Context, *client.Client)) (end func()) {
	if p == nil || watcher == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		watcher(ctx, p.Client)
	}()
	return func() {
		cancel()
		<-done
	}
}
