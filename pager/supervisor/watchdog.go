package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
)

// DefaultWatchdog is longer than a pager is kept from the processor on a host that does
// anything at all. A pager that was killed for nothing costs each guest a pause.
const DefaultWatchdog = 10 * time.Second

// silentLooks is how many looks in a row must find no sign of life before the pager is
// taken for dead. Looks are counted and not time, so that a supervisor that was itself
// stopped, or a host that slept, blames nobody.
const silentLooks = 8

// watch waits for the end of a pager (true) or of ctx (false). It ends a pager that hangs:
// one that has given signs of life, as those do that were asked for them, and gives none
// any more.
func (s *Supervisor) watch(ctx context.Context, r *running) bool {
	var look <-chan time.Time
	if s.cfg.Watchdog > 0 {
		tick := time.NewTicker(s.cfg.Watchdog / silentLooks)
		defer tick.Stop()
		look = tick.C
	}
	beats, silent := s.launcher.beats(), 0
	for {
		select {
		case <-ctx.Done():
			return false
		case <-r.exited:
			return true
		case <-look:
		}
		now := s.launcher.beats()
		if silent++; now != beats || now == r.beats {
			beats, silent = now, 0
		}
		if silent < silentLooks {
			continue
		}
		s.cfg.Logger.Warn("the pager gives no sign of life and is killed", "pid", r.pid, "after", s.cfg.Watchdog)
		if err := r.abort(); err != nil {
			s.cfg.Logger.Error("killing the pager that hangs", "pid", r.pid, "error", err)
		}
		silent = 0
	}
}

// endSilent ends the pager that holds the directory of o if it answers nobody for limit: a
// daemon that was started anew may find one that hangs. That no pager holds it is no
// error, nor is that one answers.
func endSilent(ctx context.Context, o Options, limit time.Duration) error {
	pid, startTime, err := pager.Holder(o.DataDir, o.Version)
	if err != nil {
		return nil // there was none yet, or the start will say what is wrong
	}
	holder, err := pidfd.Reopen(pid, startTime)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		defer holder.Close()
		if holder.Wait() {
			close(exited)
		}
	}()
	defer holder.StopWaiting()
	c := client.New(pager.ControlSocket(o.DataDir, o.Version))
	defer c.Close()
	for asked := 0; asked < silentLooks; asked++ {
		ask, cancel := context.WithTimeout(ctx, limit/silentLooks)
		_, err := c.Health(ask)
		if err == nil {
			cancel()
			return nil
		}
		select {
		case <-exited:
			cancel()
			return nil
		case <-ask.Done():
			cancel()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	silent := &running{pid: pid, exited: exited, signal: holder.Signal}
	if err := silent.abort(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending a pager that does not answer: %w", err)
	}
	<-exited
	return nil
}

// abortTime is how long a pager that hangs has for writing down where.
const abortTime = time.Second

// abort ends a pager that hangs. On SIGABRT a Go program writes to its log where its
// goroutines stand; one that cannot even do that gets SIGKILL.
func (r *running) abort() error {
	if err := r.signal(syscall.SIGABRT); err != nil {
		return err
	}
	select {
	case <-r.exited:
		return nil
	case <-time.After(abortTime):
		return r.signal(syscall.SIGKILL)
	}
}
