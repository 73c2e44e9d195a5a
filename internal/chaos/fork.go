package chaos

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/talk"
	"github.com/faultline-vm/faultline/pager/control"
)

// fork is one fork of a cell's source, or of a capture of one of its forks. It is
// used by one goroutine at a time.
type fork struct {
	*trial
	number  uint64 // from 1: zero is what the source's identity page holds
	id      string // of its session
	of      capture.Capture
	capture capture.Capture // its own
	vmm     hypervisor.VMM
	talk    *talk.Talk
}

func (t *trial) newFork(number uint64, of capture.Capture) *fork {
	f := &fork{trial: t, number: number, id: fmt.Sprintf("fork-%d", number), of: of}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forks = append(t.forks, f)
	return f
}

// begin restores the fork and waits for its first answer.
func (f *fork) begin(ctx context.Context) error {
	dir := filepath.Join(f.dir, f.id)
	linked, err := capture.Fork(ctx, f.of, capture.ForkOptions{Dir: dir})
	if err != nil {
		return err
	}
	f.capture = linked.Capture
	if err := f.load(ctx, dir); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if f.talk, err = talk.Open(f.vmm); err != nil {
		return err
	}
	if f.cell.Balloon == balloonInflates {
		if err := f.vmm.SetBalloon(ctx, f.source.guest.balloon()); err != nil {
			return fmt.Errorf("inflate the balloon: %w", err)
		}
	}
	return f.source.guest.answer(ctx, f.talk)
}

// work has the guest check and rewrite its memory until the event is over, and once
// more behind it. A check that was under way at the end of the event is not that one.
func (f *fork) work(ctx context.Context) error {
	for behind := 0; behind < 2; {
		if f.isOver() {
			behind++
		}
		right, err := f.source.guest.check(ctx, f.talk, f.number)
		if err != nil {
			return err
		}
		f.right.Add(right)
		if err := f.breathe(ctx); err != nil {
			return err
		}
	}
	return nil
}

// breathe gives the guest what the balloon took, and takes it again, in cells whose
// pager waits for REMOVE messages: how many one inflation makes is the guest's affair.
func (f *fork) breathe(ctx context.Context) error {
	if !f.cell.removes() || f.isOver() || f.operation() && f.number == 1 {
		return nil
	}
	for _, size := range []int{0, f.source.guest.balloon()} {
		if err := f.vmm.SetBalloon(ctx, size); err != nil {
			return fmt.Errorf("set the balloon to %d MiB: %w", size, err)
		}
		if err := sleep(ctx, 50*patience); err != nil {
			return err
		}
	}
	return nil
}

// loadAttempts bounds how often a restore is begun whose pager died between the
// VMM's connection and the session's journal: that VMM has given its memory to nobody.
const loadAttempts = 10

func (f *fork) load(ctx context.Context, dir string) error {
	for attempt := 1; ; attempt++ {
		err := f.loadOnce(ctx, dir)
		if err == nil || ctx.Err() != nil || attempt == loadAttempts || !f.pagerDied() {
			return err
		}
		f.repeated.Add(1)
		for _, pl := range f.places {
			if err := pl.close(ctx, f.id); err != nil {
				return err
			}
		}
	}
}

func (f *fork) loadOnce(ctx context.Context, dir string) error {
	session, pl, pid, err := f.createSession(ctx)
	if err != nil {
		return fmt.Errorf("create a session: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		f.watchHandshake(ctx, pl, pid, cancel)
	}()
	f.vmm, err = f.driver.Restore(ctx, hypervisor.RestoreSpec{
		Process:   hypervisor.Process{Dir: dir, Input: true},
		StatePath: filepath.Join(capture.CapturesDir, f.of.Record.ID, capture.StateName),
		Memory:    hypervisor.Memory{Backend: hypervisor.Uffd, Path: session.Socket},
		Resume:    true,
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	cancel(nil)
	<-watched
	return err
}

// createSession opens the fork's session at the first pager that takes it, and
// returns the number of that pager's process.
func (f *fork) createSession(ctx context.Context) (s control.Session, at *place, pid int, err error) {
	req := control.SessionRequest{ID: f.id, Image: f.capture.ManifestPath(), Overlays: f.source.guest.overlays(f.number)}
	for _, at = range f.places {
		h, healthErr := at.health(ctx)
		if err = healthErr; err == nil {
			s, err = at.create(ctx, req)
		}
		if !errors.Is(err, &problem.Problem{Code: "draining"}) && !errors.Is(err, errOver) {
			return s, at, h.PID, err
		}
	}
	return s, at, pid, err
}

var errHandshakeLost = errors.New("the pager died with the VMM's handshake, and its successor waits for one")

// handshakePatience is how long a VMM may take to connect to a pager's successor. One
// that had connected is found by it, unless the pager died within the accept.
const handshakePatience = time.Second

// watchHandshake calls a restore off whose handshake went to a pager that is dead.
func (f *fork) watchHandshake(ctx context.Context, pl *place, pid int, callOff context.CancelCauseFunc) {
	var since time.Time
	for sleep(ctx, 10*patience) == nil {
		s, err := pl.Session(ctx, f.id)
		if err != nil || s.State != control.Waiting {
			since = time.Time{}
			continue
		}
		h, err := pl.Health(ctx)
		switch {
		case err != nil || h.PID == pid:
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > handshakePatience:
			callOff(errHandshakeLost)
			return
		}
	}
}

// end ends the fork's VMM. Its session ends by itself.
func (f *fork) end(ctx context.Context) error {
	var errs []error
	if f.talk != nil {
		errs = append(errs, f.talk.Close())
	}
	if f.vmm != nil {
		errs = append(errs, kill(ctx, f.vmm))
	}
	return errors.Join(errs...)
}

// alive is an error if the VMM has ended.
func (f *fork) alive() error {
	select {
	case <-f.vmm.Exited():
		return fmt.Errorf("%s has died: %s", f.id, f.vmm.ExitState())
	default:
		return nil
	}
}
