package pager

import "sync/atomic"

// removedPages remembers which pages the guest gave away. The life of a page, as
// the pager sees it:
//
//	absent ──fault──▶ present ──REMOVE──▶ removed ──fault──▶ removed, present
//	   └──────────────REMOVE─────────────────▲───────REMOVE────────┘
//
// Only "removed" is kept: it decides what the next fault gets, zeros instead of
// the image's page, and nothing takes it back while the session lives. "Present"
// is not kept, since a page that was installed may vanish before anybody is told
// (a COPY between the reading of a REMOVE event and the zapping of its range):
// every fault is answered with an ioctl that wakes.
//
// Pages are numbered through the memory image in units of the guest's page size.
// Setting needs session.order held for writing; reading needs it held for reading,
// or the goroutine that sets.
//
// The words lie in the session's journal, so that they outlive the process.
type removedPages struct {
	words []atomic.Uint64
}

func (r *removedPages) has(page uint64) bool {
	return r.words[page/64].Load()>>(page%64)&1 != 0
}

// add marks n pages from page on.
func (r *removedPages) add(page, n uint64) {
	for n > 0 {
		shift := page % 64
		count := min(n, 64-shift)
		r.words[page/64].Or(^uint64(0) >> (64 - count) << shift)
		page, n = page+count, n-count
	}
}
