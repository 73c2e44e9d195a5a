package chaos

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/faultline-vm/faultline/pager"
)

// Report is what a run found. Its JSON form is a contract: fields are added and never
// renamed.
type Report struct {
	Seed uint64 `json:"seed"`
	// Pagers are the versions of the pager that took part.
	Pagers []string `json:"pagers"`
	// VMMs are the programs that ran microVMs, with their versions.
	VMMs    []string `json:"vmms"`
	Seconds float64  `json:"seconds"`
	// Cells has one entry per cell, in the order in which they ran.
	Cells []Result `json:"cells"`
}

// Outcome is how a cell went.
type Outcome string

// The outcomes.
const (
	Passed     Outcome = "passed"
	Failed     Outcome = "failed"
	Skipped    Outcome = "skipped"    // this host lacks something
	Impossible Outcome = "impossible" // there is no such thing
	NotRun     Outcome = "not run"    // the budget was spent
)

// Result is one cell.
type Result struct {
	Cell    string  `json:"cell"`
	Outcome Outcome `json:"outcome"`
	// Reason says why the cell did not pass.
	Reason string `json:"reason,omitempty"`
	// Repeat is the command that runs a failed cell once more.
	Repeat string `json:"repeat,omitempty"`
	// StallMS is the longest that the witness has waited for a page, in milliseconds.
	StallMS float64 `json:"stall_ms"`
	// PagesRight counts the pages that guests checked and found right, WrongPages
	// those that the first guest which found any found wrong.
	PagesRight uint64 `json:"pages_right"`
	WrongPages uint64 `json:"wrong_pages"`
	// LoadsRepeated counts restores that were begun again because the pager died
	// before it had written down whose memory it serves.
	LoadsRepeated int `json:"loads_repeated"`
	// Mid tells that the event came while a detach or a capture was under way.
	Mid     bool    `json:"mid,omitempty"`
	Seconds float64 `json:"seconds"`
}

func newReport(seed uint64, h *host) Report {
	r := Report{Seed: seed, Cells: []Result{}, VMMs: []string{}, Pagers: []string{pager.Version()}}
	if h.lacking[needLater] == "" {
		r.Pagers = append(r.Pagers, laterVersion)
	}
	for _, name := range []string{simulator, realVMM} {
		if d := h.drivers[name]; d != nil {
			r.VMMs = append(r.VMMs, name+" "+d.Describe().Version)
		}
	}
	return r
}

// fill takes what a trial has found, whether it passed or not.
func (r *Result) fill(t *trial) {
	r.PagesRight, r.LoadsRepeated, r.Mid = t.right.Load(), int(t.repeated.Load()), t.mid
	if t.witness != nil && isClosed(t.witness.done) {
		r.StallMS = float64(t.witness.worst.Round(10*time.Microsecond)) / float64(time.Millisecond)
	}
}

// OK reports whether no cell failed and at least one ran.
func (r Report) OK() bool {
	return r.count(Failed) == 0 && r.count(Passed) > 0
}

func (r Report) count(o Outcome) (n int) {
	for _, c := range r.Cells {
		if c.Outcome == o {
			n++
		}
	}
	return n
}

// Summary says it in one line.
func (r Report) Summary() string {
	return fmt.Sprintf("%d cells passed, %d failed, %d skipped, %d impossible, %d not run", r.count(Passed), r.count(Failed), r.count(Skipped), r.count(Impossible), r.count(NotRun))
}

// row adds up cells.
type row struct {
	passed, failed, skipped int
	stall                   float64
	stallIn                 string
}

func (r *row) add(c Result) {
	switch c.Outcome {
	case Passed:
		r.passed++
	case Failed:
		r.failed++
	case Skipped, NotRun:
		r.skipped++
	}
	if c.Outcome == Passed && c.StallMS > r.stall {
		r.stall, r.stallIn = c.StallMS, c.Cell
	}
}

// WriteTable writes the report for a person: a line for each value of each dimension.
func (r Report) WriteTable(out io.Writer) error {
	fmt.Fprintf(out, "pagers %s; %s; seed %d; %.0f s\n\n", strings.Join(r.Pagers, " and "), strings.Join(r.VMMs, ", "), r.Seed, r.Seconds)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CELLS WITH\tPASSED\tFAILED\tLEFT OUT\tWORST STALL\tIN")
	for i, values := range dimensions() {
		for _, v := range values {
			var sum row
			for _, c := range r.Cells {
				if strings.Split(c.Cell, "/")[i] == v {
					sum.add(c)
				}
			}
			if sum != (row{}) {
				fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.1f ms\t%s\n", v, sum.passed, sum.failed, sum.skipped, sum.stall, sum.stallIn)
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var right uint64
	loads, mid := 0, 0
	for _, c := range r.Cells {
		right, loads = right+c.PagesRight, loads+c.LoadsRepeated
		if c.Mid {
			mid++
		}
	}
	fmt.Fprintf(out, "\n%s\n%d pages were right; %d loads were begun again; %d events came amid a detach or a capture\n", r.Summary(), right, loads, mid)
	for _, reason := range r.reasons() {
		fmt.Fprintln(out, reason)
	}
	return nil
}

// reasons says how many cells were left out why.
func (r Report) reasons() (lines []string) {
	counts := map[string]int{}
	for _, c := range r.Cells {
		if c.Outcome == Skipped || c.Outcome == Impossible {
			counts[fmt.Sprintf("%s: %s", c.Outcome, c.Reason)]++
		}
	}
	for reason, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	return lines
}
