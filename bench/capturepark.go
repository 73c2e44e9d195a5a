package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/demo"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

func (r *run) pagerBinary() (string, error) { return demo.FindPager(r.PagerBinary) }

// dirtied is what a fork had written before it parked.
type dirtied struct {
	bytes    int64
	snapshot time.Duration
}

// parkFork forks a capture, has the fork write and parks it. It returns how long
// the park took: from the request until the capture is published and the VMM gone.
func (r *run) parkFork(binary string, c capture.Capture) (park time.Duration, d dirtied, err error) {
	pager, stop, err := r.startPager(binary, "park-pager")
	if err != nil {
		return 0, d, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	dir := filepath.Join(r.dir, "park-fork")
	f, err := capture.Fork(r.ctx, c, capture.ForkOptions{Dir: dir})
	if err != nil {
		return 0, d, err
	}
	session, err := pager.CreateSession(r.ctx, control.SessionRequest{ID: "park", Image: f.Capture.ManifestPath()})
	if err != nil {
		return 0, d, err
	}
	hv, err := r.simulator()
	if err != nil {
		return 0, d, err
	}
	vmm, err := hv.Restore(r.ctx, hypervisor.RestoreSpec{
		Process:   hypervisor.Process{Dir: dir, Input: true},
		StatePath: filepath.Join(capture.CapturesDir, c.Record.ID, capture.StateName),
		Memory:    hypervisor.Memory{Backend: hypervisor.Uffd, Path: session.Socket}, TrackDirtyPages: true, Resume: true,
	})
	if err != nil {
		return 0, d, err
	}
	m, err := r.converse(hv, vmm, capture.Restored(f.Capture, true))
	if err != nil {
		return 0, d, err
	}
	defer func() { err = errors.Join(err, r.end(m)) }()
	report, err := m.Write(r.ctx)
	if err != nil {
		return 0, d, err
	}
	q := m.request()
	q.Stop = true
	began := time.Now()
	taken, err := capture.Take(r.ctx, q)
	if err != nil {
		return 0, d, err
	}
	park = time.Since(began)
	if taken.Why != "" {
		return 0, d, fmt.Errorf("the fork parked with a full capture: %s", taken.Why)
	}
	if _, err := pager.CloseSession(r.ctx, "park"); err != nil {
		return 0, d, err
	}
	return park, dirtied{int64(report.Pages) * memimage.PageSize, taken.Snapshot}, nil
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
