package pager

import (
	"context"
	"time"
)

// heartbeat proves to the service manager again and again that the pager works. A
// manager that does not hear of it for its watchdog's time ends the pager and starts
// another one, which adopts the guests.
//
// The sign is given only behind a look that takes every lock which a fault loop takes
// and which sessions share, so that a deadlock silences it; see works. It is given four
// times within the manager's time: a sign or two may get lost or late.
type heartbeat struct {
	p       *Pager
	limit   time.Duration // that a batch of faults may take
	serving []*session    // reused, since looking must not make garbage
	faults  uint64        // that the serving sessions had read at the last look
}

// beat gives the sign until ctx ends.
func (p *Pager) beat(ctx context.Context) {
	m := p.cfg.Manager
	if m.Watchdog == 0 {
		return
	}
	h := heartbeat{p: p, limit: m.Watchdog / 2}
	tick := time.NewTicker(m.Watchdog / 4)
	defer tick.Stop()
	for heard := true; ; {
		if h.works() {
			err := m.Notifier.Alive()
			if err != nil && heard {
				p.log.Warn("nobody hears that the pager works", "error", err)
			}
			heard = err == nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// works reports whether faults are being answered: false if all fault loops have been
// at one batch for longer than the limit, and have not even got on within it. A loop
// that answers waits for nothing but locks and memory.
//
// One loop that hangs while others work does not count. What it hangs in is the kernel,
// with the memory of its VMM, and a new process would not come further; its session
// says that it is stalled. Ending the pager for it would stop all other guests.
func (h *heartbeat) works() bool {
	h.p.cache.stats()
	h.serving = h.p.serving(h.serving[:0])
	var faults uint64
	stuck := 0
	for _, s := range h.serving {
		s.misses.oldest()
		s.parked.oldest()
		faults += s.counters.faults.Load()
		if turn := s.turn.Load(); turn != 0 && time.Since(time.Unix(0, turn)) > h.limit {
			stuck++
		}
	}
	gotOn := faults != h.faults
	h.faults = faults
	return stuck == 0 || stuck < len(h.serving) || gotOn
}

// tell says something to the service manager. That it cannot be told ends nothing: it
// may have died before the pager.
func (p *Pager) tell(what string, say func() error) {
	if err := say(); err != nil {
		p.log.Warn("the service manager was not told", "what", what, "error", err)
	}
}
