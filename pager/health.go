package pager

import (
	"context"
	"slices"
	"time"

	"github.com/faultline-vm/faultline/pager/control"
)

// oldestFault returns how long the oldest fault has waited that was read and is not
// answered. Faults that nobody read are counted by the kernel only, without a time:
// while the fault loop works, they are at most as old as its turn.
func (s *session) oldestFault() time.Duration {
	oldest := earlier(s.misses.oldest(), s.parked.oldest())
	if turn := s.turn.Load(); turn != 0 {
		oldest = earlier(oldest, time.Unix(0, turn))
	}
	if oldest.IsZero() {
		return 0
	}
	return time.Since(oldest)
}

// watch reports sessions whose guests wait too long, until ctx ends. A stall is
// logged when it is first seen and when it is over.
func (p *Pager) watch(ctx context.Context) {
	tick := time.NewTicker(control.StallLimit / 2)
	defer tick.Stop()
	var serving []*session // reused, since looking must not make garbage
	stalled := make(map[*session]bool)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		serving = p.serving(serving[:0])
		for _, s := range serving {
			waits := s.oldestFault()
			switch now := waits > control.StallLimit; {
			case now && !stalled[s]:
				stalled[s] = true
				p.log.Warn("a guest waits for a page", "session", s.id, "for", waits, "image", s.imageArg)
			case !now && stalled[s]:
				delete(stalled, s)
				p.log.Info("a guest waits no longer", "session", s.id)
			}
		}
		for s := range stalled {
			if !slices.Contains(serving, s) {
				delete(stalled, s)
			}
		}
	}
}

// serving appends the sessions that serve a VMM.
func (p *Pager) serving(to []*session) []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sessions {
		if s.serves() {
			to = append(to, s)
		}
	}
	return to
}

// serves reports whether the session serves a VMM.
func (s *session) serves() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == control.Serving
}
