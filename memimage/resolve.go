package memimage

// resolved is a stack of page indexes merged into one list of runs. It knows
// nothing of files.
//
// Besides the runs it keeps, for every bucket of pages, the run in which the
// bucket begins. Finding a page's run is then a binary search in a few
// neighbouring cache lines, whatever the size of the image.
type resolved struct {
	pages uint64
	// runs holds first page << sourceBits | source, ascending from page 0;
	// neighbours differ in source.
	runs []uint64
	// buckets holds, for page b << bucketBits, the number of its run, and at its
	// end the number of the last run. It fits 32 bits as runs are at most MaxPages.
	buckets []uint32
}

// A source is what a run resolves to: sourceZero, or 1 + a layer's place in the
// stack.
const (
	sourceBits = 16
	sourceMask = 1<<sourceBits - 1
	sourceZero = 0

	// bucketBits makes a bucket of 64 pages: 128 KiB of table for an 8 GiB guest.
	bucketBits = 6
)

// resolveStack merges indexes, oldest first. All must have the same number of
// pages, and the oldest no absent page.
//
// At each step the run at hand reaches to the nearest end among the layers from
// the top down to the one that has the page: lower ones have no say.
func resolveStack(stack []*Index) *resolved {
	pages := stack[0].pages
	bound := uint64(0)
	for _, ix := range stack {
		bound += uint64(len(ix.runs))
	}
	r := &resolved{pages: pages, runs: make([]uint64, 0, min(bound, pages))}
	cursors := make([]cursor, len(stack))
	for i, ix := range stack {
		cursors[i] = newCursor(ix)
	}
	last := uint64(sourceMask)
	for page := uint64(0); page < pages; {
		end, source := pages, uint64(sourceZero)
		for i := len(cursors) - 1; i >= 0; i-- {
			c := &cursors[i]
			if c.end <= page {
				c.seek(page)
			}
			end = min(end, c.end)
			if c.state == Absent {
				continue
			}
			if c.state == Data {
				source = uint64(i + 1)
			}
			break
		}
		if source != last {
			r.runs = append(r.runs, page<<sourceBits|source)
			last = source
		}
		page = end
	}
	r.shrink()
	r.fillBuckets()
	return r
}

// shrink gives back room that the estimate took and the merge did not need.
func (r *resolved) shrink() {
	if cap(r.runs)-len(r.runs) > len(r.runs)/4 {
		r.runs = append(make([]uint64, 0, len(r.runs)), r.runs...)
	}
}

func (r *resolved) fillBuckets() {
	n := (r.pages-1)>>bucketBits + 1
	r.buckets = make([]uint32, n+1)
	run := 0
	for b := range n {
		for run+1 < len(r.runs) && r.runs[run+1]>>sourceBits <= b<<bucketBits {
			run++
		}
		r.buckets[b] = uint32(run)
	}
	r.buckets[n] = uint32(len(r.runs) - 1)
}

// find returns the number of the run that has page, which must be below pages.
func (r *resolved) find(page uint64) int {
	b := page >> bucketBits
	lo, n := int(r.buckets[b]), int(r.buckets[b+1]-r.buckets[b])+1
	// The last of n runs from lo on that begins at page or before. The branch is
	// one that the compiler can turn into a conditional move.
	for bound := page<<sourceBits | sourceMask; n > 1; {
		half := n / 2
		if r.runs[lo+half] <= bound {
			lo += half
		}
		n -= half
	}
	return lo
}

// end returns the page behind run i.
func (r *resolved) end(i int) uint64 {
	if i+1 < len(r.runs) {
		return r.runs[i+1] >> sourceBits
	}
	return r.pages
}

// cursor walks the runs of one index upwards.
type cursor struct {
	ix    *Index
	next  int
	end   uint64
	state State
}

func newCursor(ix *Index) cursor {
	c := cursor{ix: ix}
	c.step()
	return c
}

func (c *cursor) step() {
	r := c.ix.run(c.next)
	c.next++
	c.end, c.state = r.Page+r.Pages, r.State
}

// seek moves to the run that has page, which lies ahead.
func (c *cursor) seek(page uint64) {
	for c.end <= page {
		c.step()
	}
}
