package instance

import "context"

// Pause lets the guest stand still. Pausing a paused one does nothing.
func (m *Manager) Pause(ctx context.Context, ref string) (Instance, error) {
	return m.change(ctx, ref, OpPause, "", func(r *run, e *entry) error {
		if e.currentState() == Paused {
			return nil
		}
		vmm := e.process()
		return r.step(stepPause, func(ctx context.Context) error {
			r.onUndo(vmm.Resume)
			return vmm.Pause(ctx)
		})
	})
}

// Resume lets the guest go on. Resuming a running one does nothing. A fork that was
// restored paused is told its new address now.
func (m *Manager) Resume(ctx context.Context, ref string) (Instance, error) {
	return m.change(ctx, ref, OpResume, "", func(r *run, e *entry) error {
		if e.currentState() == Running {
			return nil
		}
		vmm, rec := e.process(), e.record()
		if err := r.step(stepResume, func(ctx context.Context) error {
			r.onUndo(vmm.Pause)
			return vmm.Resume(ctx)
		}); err != nil {
			return err
		}
		if !rec.Announce {
			return nil
		}
		if err := r.announceAddress(e.dir, &rec); err != nil {
			return err
		}
		return r.step(stepRecord, func(context.Context) error { return e.write(rec) })
	})
}

func (e *entry) currentState() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}
