package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// captureFirstPark measures the first park of a fork against the copy that a fork
// which owned no image would have to make.
func (r *run) captureFirstPark() (out Case, err error) {
	out = limited("first_park_vs_copy", "ratio", 0.1)
	binary, err := supervisor.FindBinary(r.PagerBinary)
	if err != nil {
		return out.skip(err), err
	}
	r.say("park: a guest of %d MiB", r.parked>>20)
	base, err := r.parkedSource()
	if err != nil {
		return out.skip(err), err
	}
	pager, stop, err := r.startPager(binary, "park-pager")
	if err != nil {
		return out.skip(err), err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var parks, snapshots, copies []int64
	var dirty, copied int64
	for round := range r.parkRounds {
		park, err := r.parkFork(pager, base)
		if err != nil {
			return out.skip(err), err
		}
		taken, bytes, err := r.copyImage(base)
		if err != nil {
			return out.skip(err), err
		}
		parks, snapshots, copies = append(parks, int64(park.total)), append(snapshots, int64(park.snapshot)), append(copies, int64(taken))
		dirty, copied = park.dirty, bytes
		r.say("park: round %d of %d", round+1, r.parkRounds)
	}
	return out.measured(round(median(parks)/median(copies), 4),
		"median park %.0f ms (%.0f to %.0f) with %.1f MiB dirty (%.2f %% of the guest), of which the VMM took %.0f ms; median copy of the image's %.0f MiB of data %.0f ms (%.0f to %.0f); %d forks and %d copies, by turns; fcsim, forks paged in by the pager; on %s",
		median(parks)/1e6, ms(quantile(parks, 0)), ms(quantile(parks, 1)), mib(dirty), 100*float64(dirty)/float64(r.parked), median(snapshots)/1e6,
		mib(copied), median(copies)/1e6, ms(quantile(copies, 0)), ms(quantile(copies, 1)), len(parks), len(copies), filesystem(r.dir)), nil
}

// parkedSource returns the capture of a guest that has filled its memory.
func (r *run) parkedSource() (capture.Capture, error) {
	// Few enough pages are rewritten at a time to end close to a hundredth.
	const classes = 256
	pages := (r.parked - room) / memimage.PageSize
	source, err := r.bootMachine("park", r.parked, workload(pages, classes))
	if err != nil {
		return capture.Capture{}, err
	}
	q := source.request()
	q.Stop = true
	taken, err := capture.Take(r.ctx, q)
	return taken.Capture, errors.Join(err, r.end(source))
}

// park is the first park of a fork.
type park struct {
	// total is the time from the request until the capture is published and the
	// VMM gone, and snapshot the VMM's part of it.
	total, snapshot time.Duration
	// dirty is how many bytes the fork had written.
	dirty int64
}

// parkFork forks a capture, has the fork write a hundredth of its memory and parks
// it.
func (r *run) parkFork(pager *client.Client, c capture.Capture) (p park, err error) {
	dir := filepath.Join(r.dir, "park-fork")
	f, err := capture.Fork(r.ctx, c, capture.ForkOptions{Dir: dir})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, capture.Remove(dir)) }()
	session, err := pager.CreateSession(r.ctx, control.SessionRequest{ID: "park", Image: f.Capture.ManifestPath()})
	if err != nil {
		return p, err
	}
	defer func() {
		ctx, cancel := r.cleanUpContext()
		defer cancel()
		_, cerr := pager.CloseSession(ctx, "park")
		err = errors.Join(err, cerr)
	}()
	hv, err := r.simulator()
	if err != nil {
		return p, err
	}
	vmm, err := hv.Restore(r.ctx, hypervisor.RestoreSpec{
		Process:   hypervisor.Process{Dir: dir, Input: true},
		StatePath: filepath.Join(capture.CapturesDir, c.Record.ID, capture.StateName),
		Memory:    hypervisor.Memory{Backend: hypervisor.Uffd, Path: session.Socket}, TrackDirtyPages: true, Resume: true,
	})
	if err != nil {
		return p, err
	}
	m, err := r.converse(hv, vmm, capture.Restored(f.Capture, true))
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.end(m)) }()
	for p.dirty < int64(r.parked/100) {
		report, err := m.Write(r.ctx)
		if err != nil {
			return p, err
		}
		p.dirty += int64(report.Pages) * memimage.PageSize
	}
	q := m.request()
	q.Stop = true
	began := time.Now()
	taken, err := capture.Take(r.ctx, q)
	if err != nil {
		return p, err
	}
	p.total, p.snapshot = time.Since(began), taken.Snapshot
	if taken.Why != "" {
		return p, fmt.Errorf("the fork parked with a full capture: %s", taken.Why)
	}
	return p, nil
}

// copyImage copies the only layer of a capture, as the ladder of copies does.
func (r *run) copyImage(c capture.Capture) (time.Duration, int64, error) {
	var path string
	if err := eachLayer(c, func(layer string) error { path = layer; return nil }); err != nil {
		return 0, 0, err
	}
	to := filepath.Join(r.dir, "whole-copy")
	began := time.Now()
	if _, err := memimage.Copy(r.ctx, path, to, 0o600); err != nil {
		return 0, 0, err
	}
	taken := time.Since(began)
	info, err := os.Stat(to)
	if err != nil {
		return 0, 0, err
	}
	return taken, allocated(info), os.Remove(to)
}
