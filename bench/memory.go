package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/demo"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// watchInterval is the time between two looks at the pager's memory. A look costs
// the pager some memory itself, which is then part of what is seen.
const watchInterval = 20 * time.Millisecond

// perFork is what a fork's processes need besides its working set, roughly.
const perFork = 24 << 20

// pagerMemory measures what the pager needs besides its cache.
func (r *run) pagerMemory(binary string) (Case, error) {
	out := limited("pager_memory_mib", "MiB", 64)
	need := uint64(r.forks+2)*(r.workingSet+perFork) + r.workingSet
	if free := kibibytes(field(proc("meminfo"), "MemAvailable")); free < need {
		return out.skip(fmt.Errorf("%d MiB of memory are available, the forks need about %d; free some", free>>20, need>>20)), nil
	}
	r.say("memory: %d forks of %d MiB", r.forks, r.memory>>20)
	var seen memoryWatch
	result, err := demo.Run(r.ctx, demo.Config{
		Forks: r.forks, Parallel: r.forks, Memory: r.memory, WorkingSet: r.workingSet,
		Hypervisor: "fcsim", Backend: instance.Uffd, DataDir: r.dir,
		PagerBinary: binary, SimulatorBinary: r.SimulatorBinary,
		WatchPager: seen.run, Progress: r.Progress,
	})
	if err == nil && !result.OK() {
		err = fmt.Errorf("%d of %d forks failed, %d pages were wrong: %v", len(result.Failures), r.forks, result.PagesMismatched, result.Failures)
	}
	if err == nil && seen.looks == 0 {
		err = errors.New("the pager's memory was never seen")
	}
	if err != nil {
		return out.skip(err), err
	}
	return out.measured(round(mib(seen.most()), 2),
		"largest of %d looks: %.2f MiB resident, of which the cache held %.2f; %d forks of %d MiB with %d MiB touched, all at once, on %d CPUs; %d pages verified, %d wrong, %d faults",
		seen.looks, mib(int64(seen.resident)), mib(int64(seen.cached)), r.forks, r.memory>>20, r.workingSet>>20, environment("").CPUs,
		result.PagesVerified, result.PagesMismatched, result.Faults), nil
}

// memoryWatch keeps the look at which the pager was largest.
type memoryWatch struct {
	looks            int
	resident, cached uint64 // bytes
}

// most returns the largest memory beyond the cache, in bytes.
func (w *memoryWatch) most() int64 { return int64(w.resident) - int64(w.cached) }

// run looks until the context ends.
func (w *memoryWatch) run(ctx context.Context, pager *client.Client) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		// A pager that does not answer fails the forks as well, which is told.
		if stats, err := pager.Stats(ctx); err == nil {
			w.add(stats)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *memoryWatch) add(stats control.PagerStats) {
	now := memoryWatch{resident: stats.Process.ResidentBytes, cached: stats.Cache.UsedBytes}
	if w.looks == 0 || now.most() > w.most() {
		w.resident, w.cached = now.resident, now.cached
	}
	w.looks++
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
