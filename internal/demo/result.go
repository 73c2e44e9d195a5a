package demo

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/pager/control"
)

// Result is what a demonstration found. Its JSON form is a contract: fields are
// added and never renamed.
type Result struct {
	Hypervisor        string `json:"hypervisor"` // firecracker or fcsim
	HypervisorVersion string `json:"hypervisor_version"`
	Why               string `json:"why"` // that hypervisor was chosen
	Backend           string `json:"backend"`
	Guest             string `json:"guest"`
	Forks             int    `json:"forks"` // that were asked for
	MemoryBytes       uint64 `json:"memory_bytes"`
	WorkingSetBytes   uint64 `json:"working_set_bytes"`

	// PagesVerified counts the pages that a fork compared and found right,
	// PagesMismatched those that were wrong; each fork compares all of its
	// working set twice.
	PagesVerified   uint64 `json:"pages_verified"`
	PagesMismatched uint64 `json:"pages_mismatched"`
	// RestoreMS is the time in milliseconds from the request of a fork until its
	// guest answered; LoadMS until the manager reported it as running.
	RestoreMS Percentiles `json:"restore_ms"`
	LoadMS    Percentiles `json:"load_ms"`
	// Faults counts page faults of all forks: with the backend uffd those that
	// the pager served, with file those that the kernel handled for the VMMs.
	Faults uint64 `json:"faults"`
	// ImageBytesRead is what the pager read from the image, and with the backend
	// file what the kernel read from disk for the VMMs, which is nothing when
	// the image is still in the page cache.
	ImageBytesRead uint64 `json:"image_bytes_read"`
	// ForkMemoryBytes is the mean memory of a fork's VMM while all forks exist,
	// with shared pages counted proportionally.
	ForkMemoryBytes uint64 `json:"fork_memory_bytes"`
	// PagerMemoryBytes is the pager's resident memory, its cache included.
	PagerMemoryBytes uint64 `json:"pager_memory_bytes"`
	// PagerKills counts how often the pager was killed on purpose, VMsLost the
	// guests that ran and did not survive, LoadsRepeated the restores that were
	// begun again because the pager died before it knew their VMM.
	PagerKills    int `json:"pager_kills"`
	VMsLost       int `json:"vms_lost"`
	LoadsRepeated int `json:"loads_repeated"`
	// PagerDeaths counts how often the pager died and nobody had killed it on purpose.
	PagerDeaths int `json:"pager_deaths"`
	// Seconds is how long everything took.
	Seconds float64 `json:"seconds"`
	// Failures says, one line per fork, what went wrong. Never null.
	Failures []string `json:"failures"`
}

// OK reports whether every page of every fork was right.
func (r *Result) OK() bool {
	return len(r.Failures) == 0 && r.PagesMismatched == 0 && r.PagesVerified > 0 && r.PagerDeaths == 0
}

// summarize adds up what the forks found.
func (d *demo) summarize(forks []*fork, stats control.PagerStats) *Result {
	sameSeeds(forks)
	r := &Result{
		Faults: stats.Total.Faults, ImageBytesRead: stats.Total.ReadBytes,
		PagerMemoryBytes: stats.Process.ResidentBytes, Failures: []string{},
		LoadsRepeated: int(d.repeated.Load()),
	}
	if d.pager != nil {
		r.PagerKills = d.pager.killer.count()
		r.PagerDeaths = d.pager.diedByItself()
	}
	var ready, load []time.Duration
	var memory, measured uint64
	for _, f := range forks {
		if f.err != nil {
			r.Failures = append(r.Failures, f.name+": "+f.err.Error())
			if f.load > 0 {
				r.VMsLost++
			}
		}
		if f.ready > 0 {
			ready, load = append(ready, f.ready), append(load, f.load)
		}
		if f.memory > 0 {
			memory += f.memory
			measured++
		}
		r.PagesVerified += f.verdict.right
		r.PagesMismatched += f.verdict.wrong
		r.Faults += f.faults
		r.ImageBytesRead += f.read
	}
	r.RestoreMS, r.LoadMS = percentiles(ready), percentiles(load)
	r.ForkMemoryBytes = memory / max(measured, 1)
	return r
}

// describe adds what was asked for and what it ran on.
func (r *Result) describe(cfg Config, program string, about hypervisor.Description, why string) {
	r.Hypervisor, r.HypervisorVersion, r.Why = about.Name, about.Version, why
	r.Backend, r.Guest, r.Forks = string(cfg.Backend), program, cfg.Forks
	r.MemoryBytes, r.WorkingSetBytes = cfg.Memory, cfg.WorkingSet
}

// WriteTable writes the result for a person.
func (r *Result) WriteTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(table, name+"\t"+format+"\n", args...) }
	times := func(p Percentiles) string {
		return fmt.Sprintf("p50 %.1f ms\tp95 %.1f ms\tp99 %.1f ms", p.P50, p.P95, p.P99)
	}
	row("forks", "%d of %s\t%s touched\tbackend %s", r.Forks, humanize.IBytes(r.MemoryBytes), humanize.IBytes(r.WorkingSetBytes), r.Backend)
	row("restore to ready", "%s", times(r.RestoreMS))
	row("restore to loaded", "%s", times(r.LoadMS))
	row("pages verified", "%s", humanize.Comma(int64(r.PagesVerified)))
	row("pages mismatched", "%s", humanize.Comma(int64(r.PagesMismatched)))
	row("page faults", "%s", humanize.Comma(int64(r.Faults)))
	row("read from the image", "%s", humanize.IBytes(r.ImageBytesRead))
	row("memory per fork", "%s", humanize.IBytes(r.ForkMemoryBytes))
	if r.Backend == string(instance.Uffd) {
		row("memory of the pager", "%s", humanize.IBytes(r.PagerMemoryBytes))
	}
	if r.PagerKills > 0 {
		row("pager killed", "%d times\t%d VMs lost\t%d loads repeated", r.PagerKills, r.VMsLost, r.LoadsRepeated)
	}
	if r.PagerDeaths > 0 {
		row("FAILED", "the pager died %d times by itself", r.PagerDeaths)
	}
	row("in all", "%.1f s", r.Seconds)
	for _, failure := range r.Failures {
		row("FAILED", "%s", failure)
	}
	return table.Flush()
}
