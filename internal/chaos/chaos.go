package chaos

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Config says what to run.
type Config struct {
	// Only is a pattern for the names of cells; see docs/chaos.md. Empty means all.
	Only string
	// Short runs a sample that has every value of every dimension on the simulator,
	// as far as this host has what they need.
	Short bool
	// Budget bounds the time that cells are begun in; what is left then is not run.
	// 0 means no bound.
	Budget time.Duration
	// Seed decides on the order of the cells and on the moments of their events.
	Seed uint64
	// PagerBinary is the pager; empty means beside this program, else on PATH.
	PagerBinary string
	// LaterPager is a pager of version 999.0.0, for upgrades; empty means that one
	// is built, of the source around the working directory.
	LaterPager string
	// SimulatorBinary is fcsim; empty means beside this program, else on PATH.
	SimulatorBinary string
	// Dir is where to make the directory of the run; empty means the system's for
	// temporary files. Socket paths are limited to 107 bytes.
	Dir string
	// Progress gets lines for a person while the work goes on. Nil discards.
	Progress io.Writer
}

// run is one run of the matrix.
type run struct {
	Config
	dir     string
	host    *host
	sources map[string]*source
}

// A cell is bounded; nothing is expected to come near it. Guests of Firecracker may be
// emulated.
const (
	simulatedTime = 45 * time.Second
	realTime      = 3 * time.Minute
)

// Run runs the cells in an order that the seed decides, so that a run which is cut
// short by its budget is a sample of the whole matrix. A cell that fails is a row of
// the report and not an error. When ctx ends, the report has what was run until then,
// and the error is the context's.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	cells, err := match(cfg.Only, Cells())
	if err != nil {
		return report, err
	}
	r := &run{Config: cfg, sources: map[string]*source{}}
	if r.dir, err = os.MkdirTemp(cfg.Dir, "fl-chaos-"); err != nil {
		return report, fmt.Errorf("make a directory for the cells: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if r.host, err = prepare(ctx, cfg, r.dir); err != nil {
		return report, err
	}
	random := rand.New(rand.NewPCG(cfg.Seed, 0))
	if cfg.Short {
		if cells, err = r.host.runnable(cells); err != nil {
			return report, err
		}
		cells = short(cells, random)
	}
	random.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	if err := r.host.reserve(hugePagesOf(cells)); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, r.host.shrink()) }()
	report = newReport(cfg.Seed, r.host)
	began := time.Now()
	for i, c := range cells {
		if ctx.Err() != nil {
			break
		}
		result := Result{Cell: c.Name()}
		switch lacking := r.host.lacks(c); {
		case c.impossible() != "":
			result.Outcome, result.Reason = Impossible, c.impossible()
		case lacking != "":
			result.Outcome, result.Reason = Skipped, lacking
		case cfg.Budget > 0 && time.Since(began) > cfg.Budget:
			result.Outcome, result.Reason = NotRun, fmt.Sprintf("the budget of %v was spent", cfg.Budget)
		default:
			if result = r.runCell(ctx, c, i); ctx.Err() != nil {
				return report, context.Cause(ctx) // it says nothing about the cell
			}
			r.tell(result, i+1, len(cells))
		}
		report.Cells = append(report.Cells, result)
	}
	report.Seconds = time.Since(began).Seconds()
	return report, context.Cause(ctx)
}

// runCell runs one cell.
func (r *run) runCell(ctx context.Context, c Cell, number int) Result {
	result := Result{Cell: c.Name(), Outcome: Passed}
	began := time.Now()
	t, err := r.try(ctx, c, number)
	result.Seconds = time.Since(began).Seconds()
	if t != nil {
		result.fill(t)
	}
	if err != nil {
		result.Outcome, result.Reason = Failed, err.Error()
		result.Repeat = fmt.Sprintf("faultline chaos --seed %d --only '%s'", r.Seed, c.Name())
		var wrong *wrongError
		if errors.As(err, &wrong) {
			result.WrongPages = wrong.pages
		}
	}
	return result
}

func (r *run) try(ctx context.Context, c Cell, number int) (t *trial, err error) {
	s, err := r.sourceOf(ctx, c)
	if err != nil {
		return nil, err
	}
	// The same cell draws the same, whichever others run with it.
	name := fnv.New64a()
	name.Write([]byte(c.Name()))
	t = &trial{
		cell: c, dir: filepath.Join(r.dir, fmt.Sprint("c", number)), source: s, host: r.host, driver: r.host.drivers[c.VMM],
		random: rand.New(rand.NewPCG(r.Seed, name.Sum64())),
	}
	limit := simulatedTime
	if c.VMM == realVMM {
		limit = realTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the cell did not end within %v", limit))
	defer cancel()
	err = t.run(ctx)
	return t, errors.Join(err, os.RemoveAll(t.dir))
}

// tell says how a cell went.
func (r *run) tell(result Result, n, of int) {
	fmt.Fprintf(r.Progress, "%4d of %d  %-10s %6.1f s  %s\n", n, of, result.Outcome, result.Seconds, result.Cell)
	if result.Outcome == Failed {
		fmt.Fprintf(r.Progress, "%s\nrepeat it with: %s\n", result.Reason, result.Repeat)
	}
}
