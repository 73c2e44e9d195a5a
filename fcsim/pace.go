package fcsim

import (
	"sync/atomic"
	"time"
)

// pace keeps a vCPU to a number of pages per second.
type pace struct {
	every time.Duration // 0: unbounded
	due   time.Time
}

func newPace(rate uint64) pace {
	if rate == 0 {
		return pace{}
	}
	return pace{every: max(time.Second/time.Duration(min(rate, uint64(time.Second))), 1), due: time.Now()}
}

// napping is how long a vCPU sleeps before it looks whether it has to leave.
const napping = 5 * time.Millisecond

// wait sleeps until the next page is due. A short lead is not slept off, so that
// high rates come out right although sleeping is coarse.
func (p *pace) wait(leave *atomic.Bool) {
	if p.every == 0 {
		return
	}
	p.due = p.due.Add(p.every)
	for lead := time.Until(p.due); lead > time.Millisecond && !leave.Load(); lead = time.Until(p.due) {
		time.Sleep(min(lead, napping))
	}
}
