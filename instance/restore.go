package instance

import (
	"context"
	"net/http"
	"os"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/problem"
)

// Restore brings an instance back from its newest capture.
func (m *Manager) Restore(ctx context.Context, ref string, req RestoreRequest) (Instance, error) {
	return m.change(ctx, ref, OpRestore, Starting, func(r *run, e *entry) error {
		rec := e.record()
		if rec.Capture == "" {
			return problem.New(http.StatusConflict, CodeWrongState, "start it", "%s has no capture to restore", rec.Name)
		}
		c, err := r.openCapture(e.captureDir(rec.Capture))
		if err != nil {
			return err
		}
		return r.restore(e, c, nil, req)
	})
}

// openCapture opens a capture and checks that it can be restored here.
func (r *run) openCapture(dir string) (capture.Capture, error) {
	c, err := capture.Open(dir)
	if err != nil {
		return capture.Capture{}, problem.New(http.StatusConflict, CodeIncompatible, "restore another one, or delete it", "%w", err)
	}
	warnings, err := compatible(c.Record, r.m.cfg.Hypervisor.Describe(), r.m.host)
	for _, w := range warnings {
		r.warn("%s", w)
	}
	return c, err
}

// restore brings an instance up from capture c, which is the instance's own if link
// is nil. Otherwise link makes it that.
func (r *run) restore(e *entry, c capture.Capture, link func(ctx context.Context) (capture.Capture, error), req RestoreRequest) error {
	rec := e.record()
	plan, err := r.m.plan(req.Backend, rec.Spec, rec.Origin != nil, c)
	if err != nil {
		return err
	}
	release, err := r.admit()
	defer release()
	if err != nil {
		return err
	}
	// Were they left over from a restore before, they would now be put back.
	if err := dropDisksBefore(e.dir); err != nil {
		return stepFailed(r.op, r.name, stepDisks, err)
	}
	session := newSession(plan, e.id)
	if err := r.intent(e, interrupted{Phase: phaseUp, Session: session}); err != nil {
		return err
	}
	if link != nil {
		if err := r.step(stepLink, func(ctx context.Context) (err error) { c, err = link(ctx); return err }); err != nil {
			return err
		}
	}
	if plan.flatten {
		if err := r.step(stepFlatten, func(ctx context.Context) error { return flatten(ctx, c) }); err != nil {
			return err
		}
	}
	if err := r.step(stepDisks, func(ctx context.Context) error { return r.placeDisks(ctx, e, c) }); err != nil {
		return err
	}
	rec.Failure, rec.Parked, rec.Capture = "", false, c.Record.ID
	if err := r.ascend(ascent{e: e, from: c, plan: plan, session: session, paused: req.Paused, rec: rec, recordStep: stepRecord}); err != nil {
		return err
	}
	if err := dropDisksBefore(e.dir); err != nil {
		r.warn("the disks from before: %v", err)
	}
	return nil
}

// RestoreSnapshot puts the instance that a snapshot was taken of back to where it
// was then, and restores it. The instance must not have a VMM.
func (m *Manager) RestoreSnapshot(ctx context.Context, ref string, req RestoreRequest) (Instance, error) {
	leave, err := m.enter()
	if err != nil {
		return Instance{}, err
	}
	defer leave()
	s, err := m.usableSnapshot(ref)
	if err != nil {
		return Instance{}, err
	}
	owner := s.rec.Instance
	e, err := m.find(owner)
	if err != nil {
		return Instance{}, problem.New(http.StatusNotFound, CodeNotFound, "fork the snapshot", "the instance %s (%s) of snapshot %s no longer exists", s.rec.InstanceName, owner, s.rec.Name)
	}
	return m.change(ctx, e.id, OpRestoreSnapshot, Starting, func(r *run, e *entry) error {
		if err := s.gate.share(ctx); err != nil {
			return stepFailed(r.op, r.name, stepLink, err)
		}
		defer s.gate.unshare()
		if err := s.check(ref); err != nil {
			return err
		}
		c, err := r.openCapture(s.dir)
		if err != nil {
			return err
		}
		own := e.captureDir(c.Record.ID)
		link := func(ctx context.Context) (capture.Capture, error) {
			if mine, err := capture.Open(own); err == nil {
				return mine, nil // the snapshot was made of this very capture
			}
			if err := os.MkdirAll(e.captureDir(""), 0o700); err != nil {
				return capture.Capture{}, err
			}
			linked, err := capture.Link(ctx, c, own)
			if err != nil {
				return capture.Capture{}, err
			}
			r.onUndo(func(context.Context) error { return capture.Remove(own) })
			r.noteSharing(linked.Sharing)
			return linked.Capture, nil
		}
		if err := r.restore(e, c, link, req); err != nil {
			return err
		}
		r.tidy(stepSupersede, func(context.Context) error { return e.removeCaptures(c.Record.ID) })
		return nil
	})
}
