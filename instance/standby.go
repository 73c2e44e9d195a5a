package instance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// Standby captures an instance and ends its VMM. One in standby stays as it is.
//
// The VMM ends when the record says that the capture is the instance: until then
// the guest can go on.
func (m *Manager) Standby(ctx context.Context, ref string) (Instance, error) {
	return m.change(ctx, ref, OpStandby, Stopping, func(r *run, e *entry) error {
		if e.currentState() == Standby {
			return nil
		}
		rec, vmm := e.record(), e.process()
		ran := e.currentState() == Running
		if err := r.captureIntent(e, ran); err != nil {
			return err
		}
		if err := r.step(stepPause, func(ctx context.Context) error {
			if ran {
				r.onUndo(vmm.Resume)
			}
			return vmm.Pause(ctx)
		}); err != nil {
			return err
		}
		c, err := r.take(e, nil) // of a guest that is going to end, memory must not be the only place
		if err != nil {
			return err
		}
		rec.Capture, rec.Parked = c.Record.ID, true
		rec.Pending = &interrupted{Phase: phasePark, Operation: r.op}
		if err := r.step(stepRecord, func(context.Context) error { return e.write(rec) }); err != nil {
			return err
		}
		if err := r.end(e, rec); err != nil {
			return err
		}
		if err := r.finish(stepSettle, func(context.Context) error { return m.settleParked(e) }); err != nil {
			return err
		}
		r.tidy(stepSupersede, func(context.Context) error { return e.removeCaptures(c.Record.ID) })
		return nil
	})
}

// settleParked records that an instance stands by. Its VMM is gone.
func (m *Manager) settleParked(e *entry) error {
	rec := e.record()
	rec.VMM, rec.Pending = nil, nil
	if err := e.write(rec); err != nil {
		return err
	}
	e.setVMM(nil, nil)
	return nil
}

// captureIntent is intent for a capture. Taking it back, it says of the VMM's dirty
// pages what is true by then: a VMM that wrote a snapshot has forgotten them.
func (r *run) captureIntent(e *entry, ran bool) error {
	before := e.record()
	return r.step(stepIntent, func(context.Context) error {
		rec := before
		rec.Pending = &interrupted{Phase: phaseCapture, Operation: r.op, Resume: ran}
		r.onUndo(func(context.Context) error {
			rec := before
			vmm := *before.VMM
			base, based := e.base()
			vmm.Based = based && base == before.Capture
			rec.VMM = &vmm
			return e.write(rec)
		})
		return e.write(rec)
	})
}

// base returns the id of the capture that the next one builds upon.
func (e *entry) base() (id string, ok bool) {
	e.mu.Lock()
	lineage := e.lineage
	e.mu.Unlock()
	if lineage == nil {
		return "", false
	}
	c, ok := lineage.Base()
	return c.Record.ID, ok
}

// take takes a capture. It is removed if a later step fails.
func (r *run) take(e *entry, stages *stage.Area) (c capture.Capture, err error) {
	id := strings.ToLower(rand.Text())
	e.mu.Lock()
	vmm, lineage, spec := e.vmm, e.lineage, e.rec.Spec
	e.mu.Unlock()
	return c, r.step(stepCapture, func(ctx context.Context) error {
		defer r.m.upkeep.pauses.begin()()
		result, err := capture.Take(ctx, capture.Request{
			VMM: vmm, Hypervisor: r.m.cfg.Hypervisor.Describe(), Lineage: lineage, ID: id,
			Disks: captureDisks(spec), Stages: stages, MemoryBytes: spec.MemoryBytes,
		})
		if errors.Is(err, capture.ErrHeld) {
			// What it takes, others may need. The next one is full.
			err = errors.Join(fmt.Errorf("%w; it was given up", err), lineage.GiveUp())
		}
		if err != nil {
			return err
		}
		c = result.Capture
		r.onUndo(func(context.Context) error { return capture.Remove(c.Dir) })
		r.noteSharing(result.Sharing)
		if result.Unstaged != nil {
			r.warn("not staged: %v", result.Unstaged)
		}
		return nil
	})
}

// captureLive captures an instance that has a VMM and goes on as it was. The gate is
// held alone. Afterwards nothing is left to undo.
func (r *run) captureLive(e *entry) (capture.Capture, error) {
	state, err := e.process().State(r.ctx)
	if err != nil {
		return capture.Capture{}, stepFailed(r.op, r.name, stepCapture, err)
	}
	rec := e.record()
	if err := r.captureIntent(e, state == hypervisor.Running); err != nil {
		return capture.Capture{}, err
	}
	c, err := r.take(e, r.m.cfg.Stages)
	if err != nil {
		return capture.Capture{}, err
	}
	vmm := *rec.VMM
	vmm.Based = true
	rec.Capture, rec.VMM = c.Record.ID, &vmm
	if err := r.step(stepRecord, func(context.Context) error { return e.write(rec) }); err != nil {
		return capture.Capture{}, err
	}
	r.tidy(stepSupersede, func(context.Context) error { return e.removeCaptures(c.Record.ID) })
	return c, nil
}
