package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

// ascent brings an instance up from a capture in its own directory. Its record says
// already that it is being done.
type ascent struct {
	e    *entry
	from capture.Capture
	plan plan
	// session is the id of the pager's session, if the plan needs one.
	session string
	paused  bool
	// rec is the record to write at the end, but for the VMM.
	rec record
	// recordStep is the name of the last step.
	recordStep string
}

// newSession draws a session's id. Each restore has its own, so that the session of
// the one before is never in the way.
func newSession(p plan, id string) string {
	if p.choice.Backend != Uffd {
		return ""
	}
	return id + "-" + newID()[:8]
}

// ascend does it. The VMM and its session are undone if a later step fails.
func (r *run) ascend(a ascent) error {
	spec := hypervisor.RestoreSpec{
		Process:         hypervisor.Process{Dir: a.e.dir, Input: true},
		StatePath:       filepath.Join(capture.CapturesDir, a.from.Record.ID, capture.StateName),
		TrackDirtyPages: true,
	}
	if a.rec.Origin != nil {
		spec.NetworkOverrides = overrides(a.rec.Spec)
	}
	if err := r.makeTaps(a.rec); err != nil {
		return err
	}
	if err := r.openMemory(a, &spec); err != nil {
		return err
	}
	var vmm hypervisor.VMM
	if err := r.step(stepLoad, func(ctx context.Context) (err error) {
		if err := clearSocket(a.e.dir, vsockName); err != nil {
			return err // an earlier VMM's, which a new one could not bind
		}
		r.onUndo(func(context.Context) error { return clearSocket(a.e.dir, vsockName) })
		ctx, stop := r.m.guard(ctx, a.session)
		defer stop()
		if vmm, err = r.m.cfg.Hypervisor.Restore(ctx, spec); err != nil {
			return err
		}
		r.onUndo(func(ctx context.Context) error { return endStarted(ctx, vmm) })
		return nil
	}); err != nil {
		return r.explain(err, a.session)
	}
	if !a.paused {
		if err := r.step(stepResume, vmm.Resume); err != nil {
			return r.explain(err, a.session)
		}
		if err := r.announceAddress(a.e.dir, &a.rec); err != nil {
			return err
		}
	}
	a.rec.VMM = &vmmRecord{
		PID: vmm.Ref().PID, StartTime: vmm.Ref().StartTime, Session: a.session, Backend: &a.plan.choice, Based: true,
	}
	if err := r.step(a.recordStep, func(context.Context) error { return a.e.write(a.rec) }); err != nil {
		return err
	}
	a.e.setVMM(vmm, capture.Restored(a.from, true))
	r.m.follow(a.e, vmm)
	return nil
}

// openMemory makes ready where the memory comes from.
func (r *run) openMemory(a ascent, spec *hypervisor.RestoreSpec) error {
	if a.plan.choice.Backend == File {
		image, err := memimage.ReadManifest(a.from.ManifestPath())
		if err != nil {
			return stepFailed(r.op, r.name, stepLoad, err)
		}
		spec.Memory = hypervisor.Memory{
			Backend: hypervisor.File,
			Path:    filepath.Join(capture.CapturesDir, a.from.Record.ID, image.Layers[0].File),
		}
		return nil
	}
	return r.step(stepSession, func(ctx context.Context) error {
		request := control.SessionRequest{ID: a.session, Image: a.from.ManifestPath()}
		if address := a.rec.Spec.IdentityAddress; address != 0 && a.rec.Origin != nil {
			request.Overlays = []control.Overlay{{Offset: address, Data: IdentityPage(a.rec.ID, a.rec.Name, a.rec.Identity)}}
		}
		// Also where the answer was lost: the session may be there.
		r.onUndo(func(ctx context.Context) error { _, err := r.m.closeSession(ctx, a.session); return err })
		s, err := r.m.pagers.create(ctx, request)
		if err != nil {
			return err
		}
		spec.Memory = hypervisor.Memory{Backend: hypervisor.Uffd, Path: s.Socket}
		return nil
	})
}

// explain adds to an error why the pager gave the session up, if it did: the VMM
// only knows that it was killed.
func (r *run) explain(err error, session string) error {
	if session == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), probeTime)
	defer cancel()
	s, closeErr := r.m.closeSession(ctx, session)
	if closeErr == nil && s.State == control.Failed {
		return stepFailed(r.op, r.name, stepSession, fmt.Errorf("the pager gave the session up: %s: %w", s.Reason, err))
	}
	return err
}

// announceAddress tells a fork's guest its new address, once.
func (r *run) announceAddress(dir string, rec *record) error {
	if !rec.Announce {
		return nil
	}
	if !r.m.cfg.Reconfigure.wanted() {
		rec.Announce = false
		return nil
	}
	tell := func(ctx context.Context) error { return r.m.cfg.Reconfigure.tell(ctx, dir, *rec) }
	if err := r.step(stepAnnounce, tell); err != nil {
		return err
	}
	rec.Announce = false
	return nil
}

// placeDisks makes the disks of an instance those of a capture. The disks from
// before are kept aside until the operation has ended, by [dropDisksBefore].
func (r *run) placeDisks(ctx context.Context, e *entry, c capture.Capture) error {
	disks, before := filepath.Join(e.dir, capture.DisksDir), filepath.Join(e.dir, disksBefore)
	err := os.Rename(disks, before)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		r.onUndo(func(context.Context) error { return putDisksBack(e.dir) })
	}
	sharing, err := capture.PlaceDisks(ctx, c, e.dir)
	r.noteSharing(sharing)
	return err
}

// putDisksBack undoes placeDisks, also one that was interrupted.
func putDisksBack(dir string) error {
	disks, before := filepath.Join(dir, capture.DisksDir), filepath.Join(dir, disksBefore)
	if _, err := os.Lstat(before); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.RemoveAll(disks); err != nil {
		return err
	}
	return os.Rename(before, disks)
}

// dropDisksBefore removes what placeDisks has kept.
func dropDisksBefore(dir string) error { return os.RemoveAll(filepath.Join(dir, disksBefore)) }
