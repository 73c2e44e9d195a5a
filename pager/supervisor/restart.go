package supervisor

import (
	"fmt"
	"time"
)

// Restart says how often and how fast a pager that died is started again. The
// first death within Window is answered at once, the following ones after MinDelay,
// twice MinDelay and so on up to MaxDelay. The zero value means the defaults.
type Restart struct {
	// MinDelay is the delay before the second restart; 0 means 50 ms.
	MinDelay time.Duration
	// MaxDelay bounds the delay; 0 means 5 s.
	MaxDelay time.Duration
	// Window is how long a death counts; 0 means 2 minutes.
	Window time.Duration
	// Limit is the number of deaths within Window at which the supervisor gives
	// up, at least 1; 0 means 16, and a negative value means never.
	Limit int
}

func (r Restart) withDefaults() Restart {
	if r.MinDelay == 0 {
		r.MinDelay = 50 * time.Millisecond
	}
	if r.MaxDelay == 0 {
		r.MaxDelay = 5 * time.Second
	}
	if r.Window == 0 {
		r.Window = 2 * time.Minute
	}
	if r.Limit == 0 {
		r.Limit = 16
	}
	return r
}

func (r Restart) validate() error {
	if r.MinDelay < 0 || r.MaxDelay < r.MinDelay || r.Window < 0 {
		return fmt.Errorf("restart delays from %v to %v within %v make no sense; use 0 ≤ MinDelay ≤ MaxDelay and a positive Window", r.MinDelay, r.MaxDelay, r.Window)
	}
	return nil
}

// deaths remembers the deaths that still count.
type deaths struct {
	Restart
	times []time.Time // oldest first
}

// add counts a death. It returns how long to wait before the next start, or false
// when there were too many.
func (d *deaths) add(now time.Time) (time.Duration, bool) {
	for len(d.times) > 0 && now.Sub(d.times[0]) > d.Window {
		d.times = d.times[1:]
	}
	d.times = append(d.times, now)
	n := len(d.times)
	if d.Limit > 0 && n >= d.Limit {
		return 0, false
	}
	if n == 1 {
		return 0, true
	}
	delay := d.MinDelay
	for i := 2; i < n && delay < d.MaxDelay; i++ {
		delay *= 2
	}
	return min(delay, d.MaxDelay), true
}
