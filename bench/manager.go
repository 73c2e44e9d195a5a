package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/instance"
)

// managerSize is how much work the group manager does.
type managerSize struct {
	standby     int // instances in standby
	burstForks  int // forks that are requested at once
	startRounds int // starts of the daemon, and of ps
}

func fullManagerSize() managerSize {
	return managerSize{standby: 1000, burstForks: 100, startRounds: 7}
}

const (
	managerMemory = 32 << 20 // of a guest
	managerPages  = 64       // that it fills and checks

	sourceName   = "source"
	snapshotName = "base"
)

// manager measures the daemon: a process of its own, asked through its API and
// command line. VMMs are the simulator's.
func (r *run) manager() (cases []Case, err error) {
	cases = []Case{
		limited("daemon_start_s", "s", 2), limited("ps_ms", "ms", 100),
		limited("daemon_memory_mib", "MiB", 100), limited("forks_failed", "forks", 0),
	}
	start, ps, memory, forks := &cases[0], &cases[1], &cases[2], &cases[3]
	defer func() {
		for i := range cases {
			if err != nil && cases[i].Value == nil {
				cases[i] = cases[i].skip(err)
			}
		}
	}()
	d, err := r.newDaemon()
	if err != nil {
		return cases, err
	}
	if _, err := d.start(r.ctx); err != nil {
		return cases, err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	if err := r.makeSnapshot(d); err != nil {
		return cases, err
	}
	if need := uint64(r.burstForks) * perFork; kibibytes(field(proc("meminfo"), "MemAvailable")) < need {
		*forks = forks.skip(fmt.Errorf("%d forks need about %d MiB of memory; free some", r.burstForks, need>>20))
	} else if *forks, err = r.forksAtOnce(d, *forks); err != nil {
		return cases, err
	}

	r.say("manager: %d instances in standby", r.standby)
	if _, err := d.client.ForkSnapshot(r.ctx, snapshotName, instance.ForkRequest{Count: r.standby, Target: instance.Standby}); err != nil {
		return cases, err
	}
	var starts, lists []float64
	var resident uint64
	for range r.startRounds {
		if err := d.stop(r.ctx); err != nil {
			return cases, err
		}
		took, err := d.start(r.ctx)
		if err != nil {
			return cases, err
		}
		starts = append(starts, took.Seconds())
		if took, err = d.ps(r.ctx, r.standby); err != nil {
			return cases, err
		}
		lists = append(lists, float64(took.Microseconds())/1000)
		resident = max(resident, d.largest())
	}
	*start = start.measured(round(middle(starts), 3), "median of %d starts with %d instances in standby, from the start of the process to its first answer; longest %.3f s",
		len(starts), r.standby, slices.Max(starts))
	*ps = ps.measured(round(middle(lists), 1), "median of %d runs of faultline ps with %d instances, the first of each daemon; longest %.1f ms",
		len(lists), r.standby, slices.Max(lists))
	*memory = memory.measured(round(mib(int64(resident)), 1), "largest resident memory (VmHWM) of %d daemons with %d instances each, after ps", len(starts), r.standby)
	return cases, nil
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// makeSnapshot boots a guest, makes a snapshot of it and ends it.
func (r *run) makeSnapshot(d *daemon) error {
	w := guest.Default(managerPages)
	if _, err := d.client.Create(r.ctx, instance.CreateRequest{Name: sourceName, Spec: instance.Spec{
		Kernel: d.kernel, BootArgs: w.BootArgs(), VCPUs: 1, MemoryBytes: managerMemory,
	}}); err != nil {
		return err
	}
	if _, err := d.client.Start(r.ctx, sourceName); err != nil {
		return err
	}
	if err := d.await(r.ctx, sourceName, guest.Ready); err != nil {
		return err
	}
	if _, err := d.client.CreateSnapshot(r.ctx, sourceName, instance.SnapshotRequest{Name: snapshotName}); err != nil {
		return err
	}
	_, err := d.client.Delete(r.ctx, sourceName)
	return err
}

// forksAtOnce asks for many forks with a request each, all at the same time, has each
// of them check its memory, and deletes them. A fork has failed if any of it fails.
func (r *run) forksAtOnce(d *daemon, out Case) (Case, error) {
	r.say("manager: %d forks at once", r.burstForks)
	errs := make([]error, r.burstForks)
	began := time.Now()
	var asking sync.WaitGroup
	for i := range errs {
		asking.Go(func() { errs[i] = d.fork(r.ctx, fmt.Sprintf("fork-%d", i)) })
	}
	asking.Wait()
	took := time.Since(began)
	failed, first := 0, error(nil)
	for i, err := range errs {
		if err == nil {
			err = d.check(r.ctx, fmt.Sprintf("fork-%d", i))
		}
		if err != nil {
			failed++
			first = errors.Join(first, err)
		}
		if _, err := d.client.Delete(r.ctx, fmt.Sprintf("fork-%d", i)); err != nil {
			return out.skip(err), err
		}
	}
	if err := r.ctx.Err(); err != nil {
		return out.skip(err), err
	}
	detail := fmt.Sprintf("%d requests for a fork of one snapshot, all at once, %d restores at the same time: all of them running after %.1f s; each then checked its memory",
		r.burstForks, d.restores, took.Seconds())
	if first != nil {
		detail += "; " + first.Error()
	}
	return out.measured(float64(failed), "%s", detail), nil
}

// fork makes one fork of the snapshot.
func (d *daemon) fork(ctx context.Context, name string) error {
	made, err := d.client.ForkSnapshot(ctx, snapshotName, instance.ForkRequest{Names: []string{name}})
	if err == nil && made[0].Problem != nil {
		err = made[0].Problem
	}
	return err
}

// check has a guest compare its memory.
func (d *daemon) check(ctx context.Context, name string) error {
	if err := d.client.Send(ctx, name, []byte{guest.CommandCheck}); err != nil {
		return err
	}
	return d.await(ctx, name, guest.Check)
}

// await waits for a guest's first report of a kind, which must find nothing wrong.
func (d *daemon) await(ctx context.Context, name string, kind guest.Kind) error {
	seen := &reportSeeker{kind: kind}
	err := d.client.Logs(ctx, name, client.LogOptions{Follow: true}, seen)
	switch {
	case !seen.found && err == nil:
		return fmt.Errorf("%s ended without its %s", name, kind)
	case !seen.found:
		return err
	case seen.report.Bad != 0:
		return fmt.Errorf("%s: %d pages are wrong", name, seen.report.Bad)
	}
	return nil
}
