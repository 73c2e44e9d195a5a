package instance

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/faultline-vm/faultline/capture"
)

// Stop ends an instance's VMM; the guest is not asked. Stopping a stopped instance
// does nothing.
func (m *Manager) Stop(ctx context.Context, ref string, req StopRequest) (Instance, error) {
	op := OpStop
	if req.Force {
		op = OpForceStop
	}
	return m.change(ctx, ref, op, Stopping, func(r *run, e *entry) error {
		rec := e.record()
		if e.brokenReason() == "" && rec.VMM == nil && rec.Pending == nil && !rec.Parked && rec.Failure == "" {
			return nil
		}
		if e.brokenReason() != "" {
			// Without a record there is nothing to come back to: the process alone can
			// be ended.
			return r.finish(stepKill, func(ctx context.Context) error { return m.killAll(ctx, e) })
		}
		if err := r.intent(e, interrupted{Phase: phaseStop}); err != nil {
			return err
		}
		if err := r.end(e, rec); err != nil {
			return err
		}
		r.tidy(stepForget, func(context.Context) error { return e.removeCaptures("") })
		return r.finish(stepSettle, func(context.Context) error { return m.settleStopped(e) })
	})
}

// end ends the VMM and its session.
func (r *run) end(e *entry, rec record) error {
	if err := r.finish(stepKill, func(ctx context.Context) error { return r.m.killAll(ctx, e) }); err != nil {
		return err
	}
	return r.finish(stepClose, func(ctx context.Context) error {
		if rec.VMM == nil {
			return nil
		}
		// The pager notices by itself that the VMM is gone; it need not even run.
		if _, err := r.m.closeSession(ctx, rec.VMM.Session); err != nil {
			r.warn("close the session: %v", err)
		}
		return nil
	})
}

// settleStopped records that an instance is stopped. Its VMM is gone.
func (m *Manager) settleStopped(e *entry) error {
	rec := e.record()
	rec.VMM, rec.Pending, rec.Parked, rec.Capture, rec.Failure = nil, nil, false, "", ""
	if err := e.write(rec); err != nil {
		return err
	}
	e.setVMM(nil, nil)
	return nil
}

// Delete ends an instance and removes its directory, in any state. An instance
// that does not exist is an error of code not_found.
func (m *Manager) Delete(ctx context.Context, ref string) error {
	_, err := m.change(ctx, ref, OpDelete, Stopping, func(r *run, e *entry) error {
		rec := e.record()
		if e.brokenReason() == "" {
			if err := r.intent(e, interrupted{Phase: phaseDelete}); err != nil {
				return err
			}
		}
		if err := r.end(e, rec); err != nil {
			return err
		}
		return r.finish(stepRemove, func(context.Context) error { return m.remove(e) })
	})
	return err
}

// remove removes the taps and the directory of an instance and forgets it. Its VMM is gone.
func (m *Manager) remove(e *entry) error {
	// First, as nobody else knows their names.
	if err := m.removeTaps(e.record()); err != nil {
		return err
	}
	err := capture.Remove(e.dir)
	if _, gone := os.Lstat(e.dir); !errors.Is(gone, fs.ErrNotExist) {
		return errors.Join(err, gone)
	}
	// What remains of it has a name that the next start clears.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.cfg.Logger.Warn("deleted, but not all of its files could be removed", "instance", e.id, "error", err)
	}
	m.unregister(e)
	return nil
}
