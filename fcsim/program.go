package fcsim

import (
	"math/bits"
	"slices"

	"github.com/faultline-vm/faultline/guest"
)

// phase is what the guest is in the middle of.
//
//	idle ──boot──▶ filling ──ready──▶ idle
//	idle ──c, auto──▶ checking ──report──▶ idle
//	idle ──w, auto──▶ writing ──report──▶ idle
type phase string

const (
	idle     phase = "idle"
	filling  phase = "filling"
	checking phase = "checking"
	writing  phase = "writing"
)

// progress is the part of the guest that is not in its memory, as a CPU's
// registers are: it travels in the VM state, so that a guest which was captured
// in the middle of a command goes on with it where it was.
type progress struct {
	Phase phase `json:"phase"`
	// Pass counts the writes that were begun, Seed is that of the newest one.
	Pass uint64 `json:"pass"`
	Seed uint64 `json:"seed"`
	Auto bool   `json:"auto"`
	// Round says that a write of auto mode still wants its check.
	Round bool `json:"round"`
	// Shares has one element per vCPU.
	Shares []share `json:"shares"`
}

// share is one vCPU's part of a pass over the pages: the visits whose number is
// the vCPU's modulo the number of vCPUs.
type share struct {
	// Next is the number of the next visit.
	Next uint64 `json:"next"`
	// Pages counts visited pages, Bad those of them that were wrong, First is the
	// number of the first of these or guest.NoPage.
	Pages uint64 `json:"pages"`
	Bad   uint64 `json:"bad"`
	First uint64 `json:"first"`
}

func newProgress(w guest.Workload, vcpus int) progress {
	p := progress{Phase: idle, Seed: w.Seed, Auto: w.Auto, Shares: make([]share, vcpus)}
	p.begin(idle)
	return p
}

// begin enters a phase with nothing visited.
func (p *progress) begin(next phase) {
	p.Phase = next
	for i := range p.Shares {
		p.Shares[i] = share{Next: uint64(i), First: guest.NoPage}
	}
}

// visits is the number of visits of a pass: the workload's pages and, where the
// phase has to do with them, the free ones.
func (p *progress) visits(w guest.Workload) uint64 {
	switch p.Phase {
	case filling, checking:
		return w.Pages + w.Free
	case writing:
		return w.Pages
	}
	return 0
}

// done reports whether all shares have made their visits.
func (p *progress) done(w guest.Workload) bool {
	visits := p.visits(w)
	return !slices.ContainsFunc(p.Shares, func(s share) bool { return s.Next < visits })
}

// report sums up the shares. The identity is the caller's to fill in.
func (p *progress) report(kind guest.Kind) guest.Report {
	r := guest.Report{Kind: kind, Pass: p.Pass, Seed: p.Seed, First: guest.NoPage}
	for _, s := range p.Shares {
		r.Pages += s.Pages
		r.Bad += s.Bad
		r.First = min(r.First, s.First)
	}
	return r
}

// validate is for progress that was read from a file.
func (p *progress) validate(vcpus int) error {
	if !slices.Contains([]phase{idle, filling, checking, writing}, p.Phase) {
		return faultf("unknown phase %q of the guest", p.Phase)
	}
	if len(p.Shares) != vcpus {
		return faultf("progress of %d vCPUs for a machine of %d", len(p.Shares), vcpus)
	}
	for i, s := range p.Shares {
		if s.Next%uint64(vcpus) != uint64(i) {
			return faultf("visit %d does not belong to vCPU %d", s.Next, i)
		}
	}
	return nil
}

// itinerary yields the page numbers of every n-th visit in the workload's order.
type itinerary struct {
	page, stride, pages uint64
}

// itineraryFrom starts at the given visit of the workload.
func itineraryFrom(w guest.Workload, visit, n uint64) itinerary {
	at := func(visit uint64) uint64 {
		high, low := bits.Mul64(visit, w.Step%w.Pages)
		return bits.Rem64(high, low, w.Pages)
	}
	return itinerary{page: at(visit), stride: at(n), pages: w.Pages}
}

func (i *itinerary) next() {
	if i.page += i.stride; i.page >= i.pages {
		i.page -= i.pages
	}
}
