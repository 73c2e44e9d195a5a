package pager

import (
	"context"
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
	stalled := make(map[string]bool)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := make(map[string]bool)
		for _, s := range p.Sessions().Sessions {
			if !s.Stalled {
				continue
			}
			now[s.ID] = true
			if !stalled[s.ID] {
				p.log.Warn("a guest waits for a page", "session", s.ID, "for_ms", s.OldestFaultMS, "vmm_pid", s.VMMPID, "image", s.Image)
			}
		}
		for id := range stalled {
			if !now[id] {
				p.log.Info("a guest waits no longer", "session", id)
			}
		}
		stalled = now
	}
}
