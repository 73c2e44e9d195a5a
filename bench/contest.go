package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// contest lets handlers serve the same faults under the same conditions.
//
// A round gives each handler a fresh process whose memory is as long as the image
// and absent. One thread of each process touches every page once, all in the same
// scattered order. The processes take turns, a burst of faults at a time, and who
// begins changes with every turn: a neighbour who takes the processor, or a clock
// that slows down, meets all of them. Bursts are long enough that the wake-up of
// sleeping processes at their beginning does not count in a median.
//
// What is compared are the medians of bursts of the same turn. Where the scheduler
// puts a process and its handler, on one processor or on two, makes a difference
// that is several times as large as any between handlers and lasts for a while: a
// median over turns compares mostly bursts that were alike in that, where one over
// all faults would tell how often each was lucky.
type contest struct {
	faults starter // of the processes that fault
	img    image
	rounds int
	burst  int // faults in a row
}

// warmUp is the number of bursts at the beginning of a round that are not counted:
// the processes are new, and so is the handler in C.
const warmUp = 1

// entrant is a handler in a contest, and what its faults took.
type entrant struct {
	handler
	turns [][]time.Duration // the counted ones of all rounds
}

// all returns what each counted fault took, in nanoseconds.
func (e *entrant) all() []int64 {
	return nanoseconds(slices.Concat(e.turns...))
}

func nanoseconds(times []time.Duration) []int64 {
	ns := make([]int64, len(times))
	for i, t := range times {
		ns[i] = t.Nanoseconds()
	}
	return ns
}

// ratios returns, for each turn, the median of e divided by that of other.
func (e *entrant) ratios(other *entrant) []float64 {
	ratios := make([]float64, len(e.turns))
	for i := range e.turns {
		ratios[i] = median(nanoseconds(e.turns[i])) / median(nanoseconds(other.turns[i]))
	}
	return ratios
}

// run holds the contest and adds its turns to those of the entrants.
func (c contest) run(ctx context.Context, progress func(done, all int), entrants ...*entrant) error {
	for round := range c.rounds {
		if err := c.round(ctx, round, entrants); err != nil {
			return err
		}
		progress(round+1, c.rounds)
	}
	return nil
}

func (c contest) round(ctx context.Context, number int, entrants []*entrant) (err error) {
	processes := make([]faulting, len(entrants))
	for i, e := range entrants {
		process, end, err := start(ctx, c.faults, e, c.img)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
		processes[i] = process
	}
	turns := make([][][]time.Duration, len(entrants))
	turn := number
	for burst := range slices.Chunk(c.img.scattered(), c.burst) {
		for i := range entrants {
			who := (i + turn) % len(entrants)
			took, err := processes[who].touch(burst)
			if err != nil {
				return err
			}
			turns[who] = append(turns[who], took)
		}
		turn++
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	for i, process := range processes {
		if err := c.img.check(process); err != nil {
			return err
		}
		entrants[i].turns = append(entrants[i].turns, turns[i][warmUp:]...)
	}
	return nil
}

// start runs a process with absent memory as long as the image, and has its
// faults served.
func start(ctx context.Context, faults starter, h handler, img image) (faulting, func() error, error) {
	process, err := faults(img.size())
	if err != nil {
		return nil, nil, err
	}
	end, err := h.serve(ctx, process, img)
	if err != nil {
		return nil, nil, errors.Join(err, process.Kill())
	}
	return process, func() error { return errors.Join(process.Kill(), end()) }, nil
}

// check compares the whole memory of a process with the image. A page that is
// absent still is faulted in.
func (i image) check(process faulting) error {
	sum, err := process.sum()
	if err != nil {
		return err
	}
	if sum != i.sum {
		return fmt.Errorf("the memory of process %d is not that of the image", process.Pid())
	}
	return nil
}
