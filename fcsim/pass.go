package fcsim

import (
	"encoding/binary"
	"io"
	"time"

	"github.com/faultline-vm/faultline/guest"
)

// The steps of the guest's program. They run on vCPU threads outside all locks
// and are the only places that load and store guest memory for the guest.

// seed returns the seed of a class from the guest's own memory, where a stale
// page would show.
func (c *cpus) seed(class uint64) uint64 {
	return binary.LittleEndian.Uint64(c.mem.at(guest.StateAddress+8*class, 8))
}

func (c *cpus) setSeed(class, seed uint64) {
	binary.LittleEndian.PutUint64(c.mem.writable(guest.StateAddress)[8*class:], seed)
}

func (c *cpus) identity() uint64 {
	return binary.LittleEndian.Uint64(c.mem.at(guest.IdentityAddress, 8))
}

// junkSeed is what free pages are filled with.
func (c *cpus) junkSeed() uint64 { return guest.Mix(^c.w.Seed) }

// freeOffset is where the i-th free page lies; the balloon takes low i first.
func (c *cpus) freeOffset(i uint64) uint64 { return c.mem.size - (i+1)*pageSize }

// visit makes the visits of a share until it is done or the vCPU has to leave.
func (c *cpus) visit(vcpu int, pass phase, s *share) {
	w := c.w
	n := uint64(len(c.progress.Shares))
	visits := w.Pages
	if pass != writing {
		visits += w.Free
	}
	if pass == filling && vcpu == 0 && s.Next == 0 {
		for class := range w.Classes {
			c.setSeed(class, w.Seed)
		}
	}
	class := c.progress.Pass % w.Classes
	pace := newPace(w.Rate)
	if pass == filling {
		pace = newPace(0)
	}
	route := itineraryFrom(w, s.Next, n)
	for ; s.Next < visits && !c.leave.Load(); s.Next += n {
		if s.Next >= w.Pages {
			c.visitFree(pass, s.Next-w.Pages, s)
			pace.wait(&c.leave)
			continue
		}
		page := route.page
		route.next()
		if pass == writing && page%w.Classes != class {
			continue
		}
		offset := w.Address(page)
		switch pass {
		case checking:
			if !guest.CheckPage(c.mem.readable(offset), w, c.seed(page%w.Classes), page) {
				s.wrong(page)
			}
		case filling:
			guest.FillPage(c.mem.writable(offset), w, w.Seed, page)
		case writing:
			guest.FillPage(c.mem.writable(offset), w, c.seed(class), page)
		}
		s.Pages++
		pace.wait(&c.leave)
	}
}

// visitFree fills or checks the i-th free page. Its number, among those of wrong
// pages, follows the workload's.
func (c *cpus) visitFree(pass phase, i uint64, s *share) {
	number := c.w.Pages + i
	offset := c.freeOffset(i)
	s.Pages++
	if pass == filling {
		guest.FillPage(c.mem.writable(offset), c.w, c.junkSeed(), number)
		return
	}
	// The balloon may be taking this page right now, so it is asked before and
	// after: only what it had taken before must be zero, and only what it had not
	// touched after must still be junk.
	before := c.balloon.zeroed.Load()
	page := c.mem.readable(offset)
	zero, junk := allZero(page), guest.CheckPage(page, c.w, c.junkSeed(), number)
	after := c.balloon.given.Load()
	switch {
	case i < before && !zero, i >= after && !junk, !zero && !junk:
		s.wrong(number)
	}
}

func allZero(page []byte) bool {
	var sum uint64
	for at := 0; at < len(page); at += 8 {
		sum |= binary.LittleEndian.Uint64(page[at:])
	}
	return sum == 0
}

func (s *share) wrong(page uint64) {
	s.Bad++
	s.First = min(s.First, page)
}

// beginWrite draws the seed of the next write.
func (c *cpus) beginWrite() (commit func()) {
	p := &c.progress
	pass := p.Pass + 1
	seed := guest.NextSeed(p.Seed, uint64(time.Now().UnixNano()), c.identity())
	c.setSeed(pass%c.w.Classes, seed)
	return func() {
		p.Pass, p.Seed = pass, seed
		p.begin(writing)
	}
}

// obey carries out one command; bytes that are none are ignored.
func (c *cpus) obey(command byte) (commit func()) {
	p := &c.progress
	switch command {
	case guest.CommandPing:
		c.say(p.blank(guest.Pong))
	case guest.CommandCheck:
		return func() { p.begin(checking) }
	case guest.CommandWrite:
		return c.beginWrite()
	case guest.CommandAuto:
		return func() { p.Auto = true }
	case guest.CommandStop:
		c.say(p.blank(guest.Stop))
		return func() { p.Auto = false }
	}
	return func() {}
}

// blank is a report about no pages.
func (p *progress) blank(kind guest.Kind) guest.Report {
	return guest.Report{Kind: kind, Pass: p.Pass, Seed: p.Seed, First: guest.NoPage}
}

// finish reports what the shares of a phase found and ends the phase.
func (c *cpus) finish() (commit func()) {
	ended := c.progress.Phase
	kinds := map[phase]guest.Kind{filling: guest.Ready, checking: guest.Check, writing: guest.Write}
	c.say(c.progress.report(kinds[ended]))
	return func() {
		c.progress.begin(idle)
		if ended == filling {
			c.onReady()
		}
		c.collect(1)
	}
}

// say prints a report with one write, so that nothing gets between its bytes. A
// console that nobody reads any more is as good as a serial port without a cable.
func (c *cpus) say(r guest.Report) {
	r.ID = c.identity()
	_, _ = io.WriteString(c.console, r.String()+"\n")
}
