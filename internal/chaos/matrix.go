package chaos

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/pager"
)

// Cell is one combination. Its fields hold the values that [Cells] lists.
type Cell struct {
	Event   string // kill, stop-kill, upgrade, downgrade, drain, or crash:<failpoint>
	Page    string // of the guest: 4k or 2m
	Balloon string // off or inflating
	VCPUs   string // 1cpu or 4cpu
	Work    string // 1-fork, 25-forks, detach or capture
	VMM     string // fcsim or firecracker
}

// The events, but for the crashes.
const (
	eventKill      = "kill"      // kill -9
	eventStopKill  = "stop-kill" // SIGSTOP for a while, then kill -9
	eventUpgrade   = "upgrade"   // handover to a pager of a later version
	eventDowngrade = "downgrade" // handover to one of an earlier version
	eventDrain     = "drain"     // new sessions go to another pager, old ones stay
	crashPrefix    = "crash:"    // the pager kills itself at that failpoint
)

// Values of the other dimensions.
const (
	page4K, page2M              = "4k", "2m"
	balloonOff, balloonInflates = "off", "inflating"
	oneCPU, fourCPUs            = "1cpu", "4cpu"
	oneFork, manyForks          = "1-fork", "25-forks"
	midDetach, midCapture       = "detach", "capture"
	simulator, realVMM          = firecracker.Simulator, firecracker.Real
)

func events() []string {
	all := []string{eventKill, eventStopKill, eventUpgrade, eventDowngrade, eventDrain}
	for _, point := range pager.Failpoints() {
		all = append(all, crashPrefix+point)
	}
	return all
}

// dimensions returns the values of each dimension, in the order of a cell's name.
func dimensions() [][]string {
	return [][]string{
		events(), {page4K, page2M}, {balloonOff, balloonInflates}, {oneCPU, fourCPUs},
		{oneFork, manyForks, midDetach, midCapture}, {simulator, realVMM},
	}
}

// values returns a cell's values in the same order.
func (c Cell) values() []string {
	return []string{c.Event, c.Page, c.Balloon, c.VCPUs, c.Work, c.VMM}
}

// Name is the cell's values, with slashes between them.
func (c Cell) Name() string { return strings.Join(c.values(), "/") }

// Cells returns the whole matrix.
func Cells() []Cell {
	cells := []Cell{{}}
	for i, values := range dimensions() {
		var grown []Cell
		for _, c := range cells {
			for _, v := range values {
				*[]*string{&c.Event, &c.Page, &c.Balloon, &c.VCPUs, &c.Work, &c.VMM}[i] = v
				grown = append(grown, c)
			}
		}
		cells = grown
	}
	return cells
}

// point returns the failpoint of the cell's event, or "".
func (c Cell) point() string {
	point, crash := strings.CutPrefix(c.Event, crashPrefix)
	if !crash {
		return ""
	}
	return point
}

// impossible says why there can be no such cell, or "".
func (c Cell) impossible() string {
	switch point := c.point(); {
	case c.removes() && c.Balloon == balloonOff:
		return "nothing is removed without a balloon"
	case c.removes() && c.Page == page2M:
		return "a balloon gives pages of 4 KiB back, and never a whole one of 2 MiB"
	case (point == "populated" || point == "unregistered") && c.Work != midDetach:
		return "the pager meets this point in a detach only"
	case c.linux() && c.VCPUs == fourCPUs:
		return "on Firecracker a balloon takes a Linux, which is built for one vCPU"
	}
	return ""
}

// removes reports whether the event comes with a REMOVE.
func (c Cell) removes() bool { return strings.HasPrefix(c.point(), "remove-") }

// forks is how many forks the cell restores.
func (c Cell) forks() int {
	switch c.Work {
	case oneFork:
		return 1
	case manyForks:
		return 25
	}
	return 2 // one that is detached or captured, and one beside it
}

// linux reports whether the guest is a Linux: the freestanding one has no balloon.
func (c Cell) linux() bool { return c.VMM == realVMM && c.Balloon == balloonInflates }

// match returns the cells whose name a pattern of path.Match matches, in which a
// missing end stands for all values. The empty pattern matches every cell.
func match(pattern string, cells []Cell) ([]Cell, error) {
	if pattern == "" {
		return cells, nil
	}
	for strings.Count(pattern, "/") < len(dimensions())-1 {
		pattern += "/*"
	}
	var found []Cell
	for _, c := range cells {
		ok, err := path.Match(pattern, c.Name())
		if err != nil {
			return nil, fmt.Errorf("%q: %w", pattern, err)
		}
		if ok {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cell matches %q; a cell is one value of each of %s", pattern, describeDimensions())
	}
	return found, nil
}

func describeDimensions() string {
	var text []string
	for _, values := range dimensions() {
		text = append(text, strings.Join(values, "|"))
	}
	return strings.Join(text, " / ")
}

// short returns a few of the cells. Together they have every value of every dimension
// on the simulator, and a handful of Firecracker. Which ones depends on random.
func short(cells []Cell, random *rand.Rand) []Cell {
	cells = slices.Clone(cells)
	random.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	// The dear ones come last, and are taken for their values only.
	slices.SortStableFunc(cells, func(a, b Cell) int { return a.forks() - b.forks() })
	var taken []Cell
	seen, real := map[string]bool{}, 0
	for _, c := range cells {
		if c.impossible() != "" {
			continue
		}
		if c.VMM == realVMM {
			// All of one guest, which has to be booted but once.
			if c.linux() || c.Page+c.VCPUs != page4K+oneCPU || c.forks() > 2 || real == shortReal || seen[c.VMM+c.Event] {
				continue
			}
			seen[c.VMM+c.Event] = true
			real++
			taken = append(taken, c)
			continue
		}
		if slices.ContainsFunc(c.values(), func(v string) bool { return !seen[v] }) {
			for _, v := range c.values() {
				seen[v] = true
			}
			taken = append(taken, c)
		}
	}
	return taken
}

// shortReal is how many cells of the short form run on Firecracker.
const shortReal = 4
