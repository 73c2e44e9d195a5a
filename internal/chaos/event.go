package chaos

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/control"
)

// occasion is what has to happen before a pager can meet a failpoint.
type occasion int

const (
	serving  occasion = iota // nothing special
	adoption                 // a pager dies and its successor adopts
	giving                   // a handover, met by the pager that gives
	taking                   // a handover, met by the pager that takes
)

func (c Cell) occasion() occasion {
	switch c.point() {
	case "adopted", "woken":
		return adoption
	case "handover-moved", "handover-sent":
		return giving
	case "handover-received", "handover-serving":
		return taking
	}
	return serving
}

// hands reports whether the event is a handover.
func (c Cell) hands() bool {
	return c.Event == eventUpgrade || c.Event == eventDowngrade || c.occasion() == giving || c.occasion() == taking
}

// twoPagers reports whether the cell needs a second pager.
func (c Cell) twoPagers() bool { return c.hands() || c.Event == eventDrain }

// Stops of eventStopKill last this long.
const (
	stopMin = 20 * time.Millisecond
	stopMax = 250 * time.Millisecond
)

// hit draws which meeting with its failpoint kills the pager.
func (t *trial) hit() int {
	upTo := func(n int) int { return 1 + t.random.IntN(n) }
	switch t.cell.point() {
	case "request-written", "accepted", "handshake-read", "journal-written":
		return 1 + upTo(t.cell.forks()) // the first is the witness's
	case "remove-read", "remove-marked":
		return upTo(8 * t.cell.forks())
	case "populated", "unregistered":
		return 1
	}
	faults := 400
	if t.cell.Page == page2M {
		faults = 20
	}
	switch {
	case t.cell.occasion() != serving && t.cell.Work == midDetach:
		return upTo(t.cell.forks()) // one of the sessions may be gone by then
	case t.cell.occasion() != serving:
		return upTo(t.cell.forks() + 1) // sessions, the witness's among them
	case t.operation():
		// The forks are restored by then, and what is under way has begun.
		return faults/2 + upTo(4*faults)
	}
	return upTo(faults * t.cell.forks())
}

// quietTime is how long nothing is installed until the event comes all the same.
const quietTime = 2 * time.Second

// awaitMoment waits until the pager has installed as many pages as the seed says, and
// serves as many sessions as the event needs.
func (t *trial) awaitMoment(ctx context.Context, sessions int) error {
	at := t.places[0]
	installed := func() (n uint64, err error) {
		err = at.ask(ctx, func() error {
			stats, err := at.Stats(ctx)
			s := stats.Total
			n = s.CopiedPages + s.ZeroPages + s.RemovedPages + s.OverlayPages + s.Present
			return err
		})
		return n, err
	}
	span := t.source.guest.pages() * uint64(t.cell.forks())
	if t.operation() {
		// It installs the pages of one guest, which nobody faults for.
		span = t.source.guest.pages()
		select {
		case <-t.began:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if t.cell.Page == page2M {
		span = max(span/256, 8)
	}
	base, err := installed()
	if err != nil {
		return err
	}
	moment := base + t.random.Uint64N(span*3/4)
	for most, grown := base, time.Now(); ; {
		n, err := installed()
		if err != nil {
			return err
		}
		if n > most {
			most, grown = n, time.Now()
		}
		// How much of their memory guests touch is theirs: the moment may never come.
		if n >= moment || time.Since(grown) > quietTime {
			break
		}
		if err := sleep(ctx, patience); err != nil {
			return fmt.Errorf("%d of %d pages are installed: %w", n, moment, err)
		}
	}
	for {
		n, err := at.count(ctx, func(s control.State) bool { return s == control.Serving })
		if err != nil || n >= sessions {
			return err
		}
		if err := sleep(ctx, patience); err != nil {
			return fmt.Errorf("%d of %d sessions are served: %w", n, sessions, err)
		}
	}
}

// disturb makes the event happen and returns when it is over: the pagers that are to
// live serve again, or are about to.
func (t *trial) disturb(ctx context.Context) error {
	first := t.places[0]
	if t.cell.point() != "" && t.cell.occasion() == serving {
		return t.awaitCrash(ctx, first)
	}
	sessions := 1
	if t.cell.occasion() != serving {
		sessions = t.atHit
	}
	if err := t.awaitMoment(ctx, sessions); err != nil {
		return fmt.Errorf("waiting for the moment of the event: %w", err)
	}
	t.noteMoment()
	switch {
	case t.cell.hands():
		return t.handOver(ctx)
	case t.cell.occasion() == adoption:
		return t.crashAdopting(ctx)
	case t.cell.Event == eventDrain:
		return first.ask(ctx, func() error { _, err := first.Drain(ctx); return err })
	}
	h, err := first.health(ctx)
	if err != nil {
		return err
	}
	if t.cell.Event == eventStopKill {
		if err := syscall.Kill(h.PID, syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stop the pager: %w", err)
		}
		time.Sleep(stopMin + time.Duration(t.random.Int64N(int64(stopMax-stopMin))))
	}
	t.died.Store(true)
	if err := syscall.Kill(h.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the pager: %w", err)
	}
	return t.awaitSuccessor(ctx, first, h.PID)
}

// awaitCrash waits for the end of a pager that has a failpoint, and for the next one.
func (t *trial) awaitCrash(ctx context.Context, pl *place) error {
	pid := pl.last.PID()
	select {
	case <-pl.last.Exited():
	case <-ctx.Done():
		return fmt.Errorf("the pager did not meet its failpoint %s@%d: %w", t.cell.point(), t.atHit, context.Cause(ctx))
	}
	t.noteMoment()
	return t.awaitSuccessor(ctx, pl, pid)
}

// awaitSuccessor waits until another process than that answers.
func (t *trial) awaitSuccessor(ctx context.Context, pl *place, pid int) error {
	for {
		h, err := pl.health(ctx)
		if errors.Is(err, errOver) || err == nil && h.PID != pid {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the pager has no successor: %w", err)
		}
		if err := sleep(ctx, patience); err != nil {
			return err
		}
	}
}

// crashAdopting kills the pager, and its successor within the adoption.
func (t *trial) crashAdopting(ctx context.Context) error {
	pl := t.places[0]
	t.died.Store(true)
	if err := pl.last.Kill(); err != nil {
		return err
	}
	if err := pl.start(ctx, t.failpoint()); err != nil {
		// It died before it had answered. That it is the failpoint's doing shows
		// in the successor, which would fail in the same way.
		return pl.supervise(ctx)
	}
	select {
	case <-pl.last.Exited():
	case <-ctx.Done():
		return fmt.Errorf("the successor did not meet its failpoint %s@%d: %w", t.cell.point(), t.atHit, context.Cause(ctx))
	}
	return pl.supervise(ctx)
}

// handOver hands the sessions of the first pager over to the second until the first
// has ended, also where one of them dies within.
func (t *trial) handOver(ctx context.Context) error {
	from, to := t.places[0], t.places[1]
	for !from.over() {
		var h control.Handover
		h, err := from.Handover(ctx, control.HandoverRequest{To: to.dir})
		answered := new(problem.Problem)
		switch {
		case t.cell.occasion() != serving:
			// Whoever dies is started again, and asked again.
		case errors.As(err, &answered):
			return fmt.Errorf("handover: %w", err)
		case len(h.Kept) > 0:
			return fmt.Errorf("session %s was not handed over: %s", h.Kept[0].ID, h.Kept[0].Reason)
		}
		if waitErr := sleep(ctx, patience); waitErr != nil {
			return fmt.Errorf("the pager that hands over does not end: %w: %v, %+v", waitErr, err, h)
		}
	}
	victim, met := from, true
	switch t.cell.occasion() {
	case giving:
		met = from.supervisor.Load().Status().Restarts > 0
	case taking:
		// It died before this was over, and may not have been noticed yet.
		select {
		case <-to.last.Exited():
		case <-time.After(time.Second):
			victim, met = to, false
		}
	}
	if !met {
		return fmt.Errorf("the pager %s did not meet its failpoint %s@%d", victim.options.Version, t.cell.point(), t.atHit)
	}
	return nil
}
