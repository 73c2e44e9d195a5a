package bench

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/faultline-vm/faultline/bench/ref"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// fault measures the group of that name.
func (r *run) fault() ([]Case, error) {
	binary, err := supervisor.FindBinary(r.PagerBinary)
	if err != nil {
		return nil, err
	}
	contest, contestErr := r.faultContest(binary)
	allocs, allocsErr := r.faultAllocs(binary)
	memory, memoryErr := r.pagerMemory(binary)
	return append(contest, allocs, memory), errors.Join(contestErr, allocsErr, memoryErr)
}

// startPager starts a pager with a data directory of that name, and returns what
// stops it.
func (r *run) startPager(binary, name string) (*client.Client, func() error, error) {
	process, err := supervisor.Start(r.ctx, supervisor.Options{Binary: binary, DataDir: filepath.Join(r.dir, name)})
	if err != nil {
		return nil, nil, err
	}
	return process.Client, func() error {
		ctx, cancel := r.cleanUpContext()
		defer cancel()
		return process.Stop(ctx)
	}, nil
}

// lacking returns err without those parts that say what this host lacks, which
// are reasons to skip a case and no failures.
func lacking(err error) error {
	if errors.Is(err, faulter.ErrRefused) || errors.Is(err, ref.ErrNoCompiler) {
		return nil
	}
	return err
}

// faultContest measures the cases that are about the time of a fault.
func (r *run) faultContest(binary string) (cases []Case, err error) {
	versus := limited("fault_vs_c", "ratio", 1.10)
	naively := unlimited("naive_fault_vs_c", "ratio")
	p50, p99 := unlimited("fault_p50", "µs"), unlimited("fault_p99", "µs")
	skipAll := func(err error) ([]Case, error) {
		return []Case{versus.skip(err), naively.skip(err), p50.skip(err), p99.skip(err)}, lacking(err)
	}

	img, err := makeImage(r.ctx, filepath.Join(r.dir, "contest-image"), r.pages)
	if err != nil {
		return skipAll(err)
	}
	client, stop, err := r.startPager(binary, "contest")
	if err != nil {
		return skipAll(err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	ours := ourPager{client}
	if err := r.warm(ours, img); err != nil {
		return skipAll(err)
	}
	built, noC := ref.Build(r.ctx, r.dir)
	if noC != nil {
		alone := &entrant{handler: ours}
		if err := r.compete(contest{faults: startInGo, img: img, rounds: r.rounds}, alone); err != nil {
			return skipAll(err)
		}
		p50, p99 = percentiles(p50, p99, alone, img)
		return []Case{versus.skip(noC), naively.skip(noC), p50, p99}, lacking(noC)
	}

	inC := reference{built, r.dir}
	vmmInC := contest{faults: startInC(built, r.dir), img: img, rounds: r.rounds}
	pager, c := &entrant{handler: ours}, &entrant{handler: inC}
	if err := r.compete(vmmInC, pager, c); err != nil {
		return skipAll(err)
	}
	p50, p99 = percentiles(p50, p99, pager, img)
	versus = versus.measured(round(median(pager.ratios(c)), 3), "pager: %s; C (%s, %s): %s; %s; both warm: the pages are in the pager's cache, and mapped and present in the handler in C",
		spread(pager), built.Compiler, ref.Flags, spread(c), turns(pager, c))

	vmmInC.rounds = max(r.rounds/3, 1)
	simple := &entrant{handler: naive{}}
	c = &entrant{handler: inC}
	if err := r.compete(vmmInC, simple, c); err != nil {
		return []Case{versus, naively.skip(err), p50, p99}, err
	}
	naively = naively.measured(round(median(simple.ratios(c)), 3), "one message per read, one read of the file per fault, one copy, in Go: %s; C: %s; %s",
		spread(simple), spread(c), turns(simple, c))
	return []Case{versus, naively, p50, p99}, nil
}

// percentiles fills in the cases about the pager's own times.
func percentiles(p50, p99 Case, pager *entrant, img image) (Case, Case) {
	all := pager.all()
	about := fmt.Sprintf("%d faults of one thread, loads, scattered over %d MiB of 4 KiB pages; %s", len(all), img.size()>>20, spread(pager))
	return p50.measured(micros(quantile(all, 0.50)), "%s", about), p99.measured(micros(quantile(all, 0.99)), "%s", about)
}

// compete holds a contest and shows how far it is.
func (r *run) compete(c contest, entrants ...*entrant) error {
	c.burst = r.burst
	return c.run(r.ctx, func(done, all int) {
		if done%8 == 0 || done == all {
			r.say("faults: round %d of %d", done, all)
		}
	}, entrants...)
}

// warm has a process touch every page of the image once.
func (r *run) warm(h handler, img image) (err error) {
	process, end, err := start(r.ctx, startInGo, h, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	_, err = process.touch(img.scattered())
	return err
}

func micros(nanoseconds int64) float64 { return round(float64(nanoseconds)/1000, 2) }

// spread describes what the counted faults of an entrant took.
func spread(e *entrant) string {
	all := e.all()
	return fmt.Sprintf("p5 %.2f, p25 %.2f, p50 %.2f, p75 %.2f, p99 %.2f µs", micros(quantile(all, 0.05)), micros(quantile(all, 0.25)),
		micros(quantile(all, 0.50)), micros(quantile(all, 0.75)), micros(quantile(all, 0.99)))
}

// turns describes the turns of e and other.
func turns(e, other *entrant) string {
	ratios := e.ratios(other)
	return fmt.Sprintf("median of %d turns of %d faults each; a quarter of the turns is below %.3f, a quarter above %.3f; ratio of the medians of all faults %.3f",
		len(ratios), len(e.turns[0]), quantile(ratios, 0.25), quantile(ratios, 0.75), median(e.all())/median(other.all()))
}
