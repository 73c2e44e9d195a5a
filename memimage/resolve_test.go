package memimage

import (
	"testing"

	"pgregory.net/rapid"
)

// genStack draws indexes of the same number of pages, the oldest without gaps.
func genStack(t *rapid.T) []*Index {
	base := genRuns(t, Zero, Data)
	last := base[len(base)-1]
	pages := last.Page + last.Pages
	var stack []*Index
	for i := range rapid.IntRange(1, 6).Draw(t, "layers") {
		runs := base
		if i > 0 {
			runs = fit(genRuns(t, Absent, Absent, Zero, Data), pages)
		}
		ix, err := NewIndex(testID(i+1), runs...)
		if err != nil {
			t.Fatal(err)
		}
		stack = append(stack, ix)
	}
	return stack
}

// fit cuts or lengthens runs to so many pages.
func fit(runs []Run, pages uint64) []Run {
	var out []Run
	next := uint64(0)
	for _, r := range runs {
		r.Pages = min(r.Pages, pages-next)
		if r.Pages > 0 {
			out = append(out, r)
			next += r.Pages
		}
	}
	if next < pages {
		out = append(out, Run{Page: next, Pages: pages - next, State: Absent})
	}
	return out
}

// modelSource resolves a page as the definition says: the topmost that has it.
func modelSource(stack []*Index, page uint64) uint64 {
	for i := len(stack) - 1; i >= 0; i-- {
		switch stack[i].Lookup(page) {
		case Data:
			return uint64(i + 1)
		case Zero:
			return sourceZero
		case Absent:
		}
	}
	return sourceMask
}

func TestResolveStackEqualsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stack := genStack(t)
		r := resolveStack(stack)
		// Both sides of every boundary of every index and bucket, and some others.
		probe := []uint64{0, r.pages - 1}
		for _, ix := range stack {
			for run := range ix.Runs() {
				probe = append(probe, run.Page, run.Page+run.Pages-1)
			}
		}
		for range 50 {
			p := rapid.Uint64Range(0, r.pages-1).Draw(t, "page")
			probe = append(probe, p, p>>bucketBits<<bucketBits)
		}
		for _, p := range probe {
			i := r.find(p)
			if start := r.runs[i] >> sourceBits; p < start || p >= r.end(i) {
				t.Fatalf("page %d found in run of pages %d to %d", p, start, r.end(i))
			}
			if got, want := r.runs[i]&sourceMask, modelSource(stack, p); got != want {
				t.Fatalf("page %d resolves to %d, want %d", p, got, want)
			}
		}
		for i := 1; i < len(r.runs); i++ {
			if r.runs[i]>>sourceBits <= r.runs[i-1]>>sourceBits || r.runs[i]&sourceMask == r.runs[i-1]&sourceMask {
				t.Fatalf("runs %d and %d are out of order or should be one", i-1, i)
			}
		}
	})
}

// memoryImage is an image without files, for what needs none.
func memoryImage(stack []*Index) *Image {
	img := &Image{resolved: resolveStack(stack)}
	img.manifest.Size = img.resolved.pages * PageSize
	for _, ix := range stack {
		img.layers = append(img.layers, &Layer{entry: LayerEntry{ID: ix.layer}})
	}
	return img
}

func TestExtentsAndRunsAgreeWithResolve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := memoryImage(genStack(t))
		first := rapid.Uint64Range(0, img.Pages()+2).Draw(t, "first")
		count := rapid.Uint64Range(0, img.Pages()+2).Draw(t, "count")
		next := first
		for e := range img.Extents(first, count) {
			if e.Page != next || e.Pages == 0 {
				t.Fatalf("extent of %d pages at %d, want one at %d", e.Pages, e.Page, next)
			}
			loc, n := img.ResolveRun(e.Page, count-(e.Page-first))
			if loc != e.Location || n != e.Pages {
				t.Fatalf("extent %+v, ResolveRun gives %+v and %d", e, loc, n)
			}
			want := img.Resolve(e.Page + e.Pages - 1)
			if !loc.Zero {
				loc.Offset += int64(e.Pages-1) * PageSize
			}
			if loc != want {
				t.Fatalf("last page of %+v lies at %+v", e, want)
			}
			next += e.Pages
		}
		if want := max(first, min(first+count, img.Pages())); next != want {
			t.Fatalf("extents of %d pages from %d end at %d, want %d", count, first, next, want)
		}
	})
}

func TestResolveOutsideTheImage(t *testing.T) {
	ix, err := NewIndex(testID(1), Run{0, 3, Data})
	if err != nil {
		t.Fatal(err)
	}
	img := memoryImage([]*Index{ix})
	for _, p := range []uint64{3, 1 << 60, ^uint64(0)} {
		if loc := img.Resolve(p); loc != (Location{}) {
			t.Errorf("page %d is at %+v", p, loc)
		}
		if loc, n := img.ResolveRun(p, 5); n != 0 || loc != (Location{}) {
			t.Errorf("page %d is at %+v for %d pages", p, loc, n)
		}
	}
	if _, n := img.ResolveRun(1, 0); n != 0 {
		t.Errorf("a limit of 0 gives %d pages", n)
	}
	if _, n := img.ResolveRun(1, ^uint64(0)); n != 2 {
		t.Errorf("no limit gives %d pages, want 2", n)
	}
}

func TestResolveDoesNotAllocate(t *testing.T) {
	img := memoryImage(scatteredStack(t, 1<<16, 4))
	page, sum := uint64(0), uint64(0)
	allocs := testing.AllocsPerRun(1000, func() {
		page = (page*6364136223846793005 + 1442695040888963407) % img.Pages()
		loc, n := img.ResolveRun(page, 512)
		sum += uint64(loc.Offset) + n + uint64(img.Resolve(page).Offset)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per page, want none (sum %d)", allocs, sum)
	}
}
