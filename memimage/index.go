package memimage

import (
	"fmt"
	"iter"
	"sort"
)

// State is what a layer knows of one page.
type State uint8

const (
	// Absent: the layer does not have the page; a layer below does.
	Absent State = iota
	// Zero: the page is zero bytes, whatever the layer's file holds there.
	Zero
	// Data: the page is in the layer's file.
	Data
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Absent:
		return "absent"
	case Zero:
		return "zero"
	case Data:
		return "data"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Run is a stretch of pages of one state.
type Run struct {
	// Page is the first page's number.
	Page uint64
	// Pages is the length, at least 1.
	Pages uint64
	// State is the state of every page of the run.
	State State
}

// Counts says how many pages of a layer are in each state.
type Counts struct {
	Data   uint64
	Zero   uint64
	Absent uint64
}

// add counts n more pages of state s.
func (c *Counts) add(s State, n uint64) {
	switch s {
	case Data:
		c.Data += n
	case Zero:
		c.Zero += n
	case Absent:
		c.Absent += n
	}
}

// Index is the page index of one layer: runs of states that cover all its pages.
// It is immutable.
type Index struct {
	layer  LayerID
	pages  uint64
	counts Counts
	// runs holds first page << stateBits | state, ascending. The first run
	// begins at page 0 and neighbours differ in state.
	runs []uint64
}

const (
	stateBits = 2
	stateMask = 1<<stateBits - 1
)

// NewIndex returns the index of layer id whose pages are runs, in order and
// without gaps from page 0. Neighbouring runs of one state are joined. The error
// tells what is wrong with the runs.
func NewIndex(id LayerID, runs ...Run) (*Index, error) {
	if _, err := ParseLayerID(string(id)); err != nil {
		return nil, err
	}
	b := newIndexBuilder(id)
	for _, r := range runs {
		if r.Page != b.ix.pages {
			return nil, fmt.Errorf("run at page %d follows the end of another at page %d", r.Page, b.ix.pages)
		}
		if r.Pages == 0 || r.Pages > MaxPages || r.State > Data {
			return nil, fmt.Errorf("run of %d pages in %v at page %d", r.Pages, r.State, r.Page)
		}
		b.add(r.State, r.Pages)
		if b.ix.pages > MaxPages {
			return nil, fmt.Errorf("index of more than %d pages", uint64(MaxPages))
		}
	}
	if b.ix.pages == 0 {
		return nil, fmt.Errorf("index without a page")
	}
	return b.finish(), nil
}

// indexBuilder collects runs in page order.
type indexBuilder struct {
	ix   *Index
	last State
}

func newIndexBuilder(id LayerID) *indexBuilder { return &indexBuilder{ix: &Index{layer: id}} }

// add appends n pages of state s. Nothing happens when n is 0.
func (b *indexBuilder) add(s State, n uint64) {
	if n == 0 {
		return
	}
	if len(b.ix.runs) == 0 || b.last != s {
		b.ix.runs = append(b.ix.runs, b.ix.pages<<stateBits|uint64(s))
		b.last = s
	}
	b.ix.pages += n
	b.ix.counts.add(s, n)
}

// finish returns the index. The builder must not be used afterwards.
func (b *indexBuilder) finish() *Index { return b.ix }

// Layer returns the id of the layer that the index describes.
func (ix *Index) Layer() LayerID { return ix.layer }

// Pages returns the number of pages, at least 1.
func (ix *Index) Pages() uint64 { return ix.pages }

// Counts returns how many pages are in each state.
func (ix *Index) Counts() Counts { return ix.counts }

// Lookup returns the state of a page, and [Absent] for a page past the end. It
// takes time logarithmic in the number of runs and does not allocate.
func (ix *Index) Lookup(page uint64) State {
	if page >= ix.pages {
		return Absent
	}
	// The first run that begins behind page; the one before it has the page.
	i := sort.Search(len(ix.runs), func(i int) bool { return ix.runs[i]>>stateBits > page })
	return State(ix.runs[i-1] & stateMask)
}

// Runs yields the runs in page order. Neighbours differ in state.
func (ix *Index) Runs() iter.Seq[Run] {
	return func(yield func(Run) bool) {
		for i := range ix.runs {
			if !yield(ix.run(i)) {
				return
			}
		}
	}
}

// run returns run i.
func (ix *Index) run(i int) Run {
	first := ix.runs[i] >> stateBits
	end := ix.pages
	if i+1 < len(ix.runs) {
		end = ix.runs[i+1] >> stateBits
	}
	return Run{Page: first, Pages: end - first, State: State(ix.runs[i] & stateMask)}
}
