package pager

import (
	"sync/atomic"

	"github.com/faultline-vm/faultline/pager/control"
)

// counters are what one session counts. The fault loop and the workers add, anyone
// reads; nothing in them allocates.
type counters struct {
	faults, present, deferred, misses, removes, rejected atomic.Uint64
	readBytes, readRetries, copyReads                    atomic.Uint64
	pages                                                [overlayPage + 1]atomic.Uint64
	latency                                              histogram
}

// count counts an installed page.
func (c *counters) count(kind pageKind) { c.pages[kind].Add(1) }

// each calls fn with each counter of c and the same one of other.
func (c *counters) each(other *counters, fn func(a, b *atomic.Uint64)) {
	fn(&c.faults, &other.faults)
	fn(&c.present, &other.present)
	fn(&c.deferred, &other.deferred)
	fn(&c.misses, &other.misses)
	fn(&c.removes, &other.removes)
	fn(&c.rejected, &other.rejected)
	fn(&c.readBytes, &other.readBytes)
	fn(&c.readRetries, &other.readRetries)
	fn(&c.copyReads, &other.copyReads)
	for i := range c.pages {
		fn(&c.pages[i], &other.pages[i])
	}
}

// merge adds what other counted.
func (c *counters) merge(other *counters) {
	c.each(other, func(a, b *atomic.Uint64) { a.Add(b.Load()) })
	c.latency.merge(&other.latency)
}

// stats returns the counters as the control API shows them.
func (c *counters) stats() control.Stats {
	return control.Stats{
		Faults:       c.faults.Load(),
		CopiedPages:  c.pages[dataPage].Load(),
		ZeroPages:    c.pages[zeroPage].Load(),
		RemovedPages: c.pages[removedPage].Load(),
		OverlayPages: c.pages[overlayPage].Load(),
		Present:      c.present.Load(),
		Deferred:     c.deferred.Load(),
		Misses:       c.misses.Load(),
		Removes:      c.removes.Load(),
		ReadBytes:    c.readBytes.Load(),
		ReadRetries:  c.readRetries.Load(),
		CopyReads:    c.copyReads.Load(),
		Rejected:     c.rejected.Load(),
		Latency:      c.latency.latency(),
	}
}
