package bench

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/faultline-vm/faultline/pager/client"
)

// allocWarmUp is how many faults each process has before counting begins: whatever a
// session allocates when it begins must be behind it.
const allocWarmUp = 64

// faultAllocs measures how many heap objects the pager allocates per fault. The pager
// counts them exactly; what a question about the count costs itself is taken off.
func (r *run) faultAllocs(binary string) (out Case, err error) {
	out = limited("fault_allocs", "allocations/fault", 0)
	fail := func(err error) (Case, error) { return out.skip(err), lacking(err) }

	img, err := makeImage(r.ctx, filepath.Join(r.dir, "allocs-image"), r.allocPages)
	if err != nil {
		return fail(err)
	}
	client, stop, err := r.startPager(binary, "allocs")
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := r.warm(ourPager{client}, img); err != nil {
		return fail(err)
	}
	processes := make([]faulting, r.allocProcesses)
	offsets := img.scattered()
	for i := range processes {
		process, end, err := start(r.ctx, startInGo, ourPager{client}, img)
		if err != nil {
			return fail(err)
		}
		defer func() { err = errors.Join(err, end()) }()
		if _, err := process.touch(offsets[:allocWarmUp]); err != nil {
			return fail(err)
		}
		processes[i] = process
	}
	r.say("allocations: %d faults", len(processes)*(len(offsets)-allocWarmUp))

	question, err := r.questionCost(client)
	if err != nil {
		return fail(err)
	}
	before, err := client.Stats(r.ctx)
	if err != nil {
		return fail(err)
	}
	for _, process := range processes {
		if _, err := process.touch(offsets[allocWarmUp:]); err != nil {
			return fail(err)
		}
	}
	after, err := client.Stats(r.ctx)
	if err != nil {
		return fail(err)
	}
	faults := after.Total.Faults - before.Total.Faults
	if want := uint64(len(processes) * (len(offsets) - allocWarmUp)); faults < want {
		return fail(fmt.Errorf("the pager counted %d faults of %d", faults, want))
	}
	objects := int64(after.Process.HeapObjects - before.Process.HeapObjects)
	return out.measured(round(float64(max(objects-question, 0))/float64(faults), 3),
		"%d objects between two questions, of which a question itself costs %d (largest of %d); %d faults of %d processes, warm",
		objects, question, r.statsCalls, faults, len(processes)), nil
}

// questionCost returns how many objects one question about the count allocates, the
// largest of several.
func (r *run) questionCost(client *client.Client) (int64, error) {
	counts := make([]int64, r.statsCalls+1)
	for i := range counts {
		stats, err := client.Stats(r.ctx)
		if err != nil {
			return 0, err
		}
		counts[i] = int64(stats.Process.HeapObjects)
	}
	costs := make([]int64, r.statsCalls)
	for i := range costs {
		costs[i] = counts[i+1] - counts[i]
	}
	return slices.Max(costs), nil
}
