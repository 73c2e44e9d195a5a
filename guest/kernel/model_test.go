package kernel

import "github.com/faultline-vm/faultline/guest"

// model is the guest as package guest describes it, over pages of its own.
type model struct {
	w      guest.Workload
	id     uint64
	pages  [][]byte
	seeds  []uint64
	report guest.Report // pass and seed are the state, the rest is filled per answer
}

// newModel returns a guest that has filled its pages, and its ready report.
func newModel(w guest.Workload, id uint64) (*model, guest.Report) {
	m := &model{w: w, id: id, report: guest.Report{Seed: w.Seed, ID: id}}
	for range w.Classes {
		m.seeds = append(m.seeds, w.Seed)
	}
	for p := range w.Pages {
		m.pages = append(m.pages, make([]byte, guest.PageSize))
		guest.FillPage(m.pages[p], w, w.Seed, p)
	}
	return m, m.answer(guest.Ready, w.Pages, 0, guest.NoPage)
}

func (m *model) answer(kind guest.Kind, pages, bad, first uint64) guest.Report {
	r := m.report
	r.Kind, r.Pages, r.Bad, r.First = kind, pages, bad, first
	return r
}

// obey returns the answer to a command; clock is what the cycle counter says.
func (m *model) obey(command byte, clock uint64) guest.Report {
	switch command {
	case guest.CommandCheck:
		bad, first := uint64(0), uint64(guest.NoPage)
		for p := range m.w.Pages {
			if !guest.CheckPage(m.pages[p], m.w, m.seeds[p%m.w.Classes], p) {
				bad, first = bad+1, min(first, p)
			}
		}
		return m.answer(guest.Check, m.w.Pages, bad, first)
	case guest.CommandWrite:
		m.report.Pass++
		m.report.Seed = guest.NextSeed(m.report.Seed, clock, m.id)
		class := m.report.Pass % m.w.Classes
		m.seeds[class] = m.report.Seed
		pages := uint64(0)
		for p := class; p < m.w.Pages; p += m.w.Classes {
			guest.FillPage(m.pages[p], m.w, m.report.Seed, p)
			pages++
		}
		return m.answer(guest.Write, pages, 0, guest.NoPage)
	case guest.CommandStop:
		return m.answer(guest.Stop, 0, 0, guest.NoPage)
	}
	return m.answer(guest.Pong, 0, 0, guest.NoPage)
}
