package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Options say what to measure, and with what.
type Options struct {
	// Group is one of Groups.
	Group string
	// PagerBinary is the pager; empty means beside this program, else on PATH.
	PagerBinary string
	// SimulatorBinary is fcsim; empty means beside this program, else on PATH.
	SimulatorBinary string
	// ManagerBinary is faultline, for the group manager; empty means this program.
	ManagerBinary string
	// Dir is where to make the directory for images and sockets; empty means the
	// system's for temporary files. Socket paths are limited to 107 bytes.
	Dir string
	// Kills is how often the group recovery kills the pager under bursts of
	// forks; 0 means 1000.
	Kills int
	// Version is that of this program, for the report.
	Version string
	// Progress gets lines for a person while the work goes on. Nil discards.
	Progress io.Writer

	// size is how much work to do; nil means what the figures are made of.
	size *size
}

// size is how much work the cases do.
type size struct {
	pages  int // of the image that the contest is about
	rounds int
	burst  int // faults in a row

	allocProcesses, allocPages int // processes that fault, and the pages of each
	statsCalls                 int // before those faults

	forks              int
	memory, workingSet uint64 // of a fork, in bytes

	captureSize
	recoverySize
	managerSize
}

// fullSize is how much work gives figures that can be repeated.
func fullSize() *size {
	return &size{
		pages: 4096, rounds: 24, burst: 256,
		allocProcesses: 8, allocPages: 16384, statsCalls: 16,
		forks: 25, memory: 1 << 30, workingSet: 64 << 20,
		captureSize: fullCaptureSize(), recoverySize: fullRecoverySize(),
		managerSize: fullManagerSize(),
	}
}

// group is a set of cases that are measured together.
type group struct {
	name    string
	measure func(*run) ([]Case, error)
}

func groups() []group {
	return []group{
		{"fault", (*run).fault},
		{"capture", (*run).capture},
		{"recovery", (*run).recovery},
		{"manager", (*run).manager},
	}
}

// Groups returns the names of all groups.
func Groups() []string {
	var names []string
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return names
}

// run is one measurement of a group.
type run struct {
	Options
	size
	ctx context.Context // of the whole run
	dir string          // of the run alone
}

// Run measures a group. The report has all rows of the group: where this host
// lacks something, the row says what. Where a measurement failed, its row says why
// and the error does too; the other rows are good.
func Run(ctx context.Context, o Options) (report Report, err error) {
	report = Report{Environment: environment(o.Version), Cases: []Case{}}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Kills == 0 {
		o.Kills = defaultKills
	}
	if o.size == nil {
		o.size = fullSize()
	}
	for _, g := range groups() {
		if g.name != o.Group {
			continue
		}
		r := &run{Options: o, size: *o.size, ctx: ctx}
		if r.dir, err = os.MkdirTemp(o.Dir, "fl-bench-"); err != nil {
			return report, fmt.Errorf("make a directory for the benchmark: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
		report.Cases, err = g.measure(r)
		return report, err
	}
	return report, fmt.Errorf("no benchmark group %q; use %s", o.Group, strings.Join(Groups(), ", "))
}

// say writes a line of progress.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.Progress, format+"\n", args...)
}

// cleanUpTime bounds work that is done after the context has ended.
const cleanUpTime = 20 * time.Second

// cleanUpContext is for such work.
func (r *run) cleanUpContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.ctx), cleanUpTime)
}
