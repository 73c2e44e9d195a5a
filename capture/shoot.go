package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// detachedTime bounds what has to be done to a VMM after the context has ended. A
// VMM that still writes a snapshot answers when it has finished.
const detachedTime = 2 * time.Minute

// shoot has the VMM write its files. When it returns the guest runs again, unless
// it did not before or it succeeded and the VMM is to stop.
func (t *taking) shoot(ctx context.Context) error {
	state, err := t.r.VMM.State(ctx)
	if err != nil {
		return err
	}
	if state != hypervisor.Running && state != hypervisor.Paused {
		return fmt.Errorf("the VMM is %q: only a guest that was started can be captured", state)
	}
	began := time.Now()
	// Set before the request: one that fails may still be obeyed.
	t.paused = state == hypervisor.Running
	if t.paused {
		if err := t.r.VMM.Pause(ctx); err != nil {
			return errors.Join(err, t.resume(ctx))
		}
	}
	t.p.record.Time = time.Now().UTC().Round(0)
	ran := t.paused
	if err := t.write(ctx); err != nil {
		return errors.Join(err, t.resume(ctx))
	}
	if !t.r.Stop {
		if err := t.resume(ctx); err != nil {
			return errors.Join(err, t.resume(ctx))
		}
	}
	if ran {
		t.p.result.Pause = time.Since(began)
	}
	t.p.record.PauseMS = float64(t.p.result.Pause.Microseconds()) / 1000
	return nil
}

// write is what is done while the guest stands still.
func (t *taking) write(ctx context.Context) error {
	err := t.snapshot(ctx)
	if err != nil && t.p.staged != nil && refused(err) {
		// A stage that is full has not cost anything yet: memory that cannot be
		// written there leaves all pages dirty, and fsync on tmpfs cannot fail.
		if perr := t.unstage(ctx, err); perr != nil {
			return errors.Join(err, perr)
		}
		err = t.snapshot(ctx)
	}
	if err != nil {
		return err
	}
	// After the snapshot, which makes the VMM finish requests in flight.
	return t.copyDisks(ctx)
}

func (t *taking) snapshot(ctx context.Context) error {
	kind := hypervisor.Full
	if t.p.record.Kind == memimage.Diff {
		kind = hypervisor.Diff
	}
	t.asked = true
	began := time.Now()
	err := t.r.VMM.Snapshot(ctx, hypervisor.SnapshotSpec{
		Kind: kind, StatePath: t.relative(t.state), MemoryPath: t.relative(t.memory),
	})
	t.p.result.Snapshot = time.Since(began)
	return err
}

// resume lets a guest run that ran before, also when ctx has ended.
func (t *taking) resume(ctx context.Context) error {
	if !t.paused {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachedTime)
	defer cancel()
	if err := t.r.VMM.Resume(ctx); err != nil {
		return fmt.Errorf("resume the guest: %w", err)
	}
	t.paused = false
	return nil
}

// stop ends the VMM. The capture is published: there is no way back.
func (t *taking) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachedTime)
	defer cancel()
	if err := t.r.VMM.Kill(ctx); err != nil {
		return fmt.Errorf("end the VMM: %w", err)
	}
	return nil
}
