package capture

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// stateRoom is more than any VM state takes: Firecracker loads at most 10 MB.
const stateRoom = 10 << 20

// choosePlace decides where the VMM writes, and sees to it that its files are new.
// Only the files of a guest that runs on are staged: of one that is going to end,
// memory must not be the only place.
func (t *taking) choosePlace(ctx context.Context) error {
	if t.r.Stages == nil || t.r.Stop {
		return t.straight(ctx)
	}
	staged, err := t.begin()
	if err != nil {
		t.p.result.Unstaged = err
		return t.straight(ctx)
	}
	t.p.staged, t.p.result.Staged = staged, true
	t.memory, t.state = staged.Path(rawName), staged.Path(StateName)
	return nil
}

// begin begins a stage with room for all of memory or, for a diff where that does
// not fit, for twice as much as the last one had: should that be too little, the
// VMM says so and nothing is lost but time.
func (t *taking) begin() (*stage.Stage, error) {
	memory := t.r.MemoryBytes
	diff := t.p.record.Kind == memimage.Diff
	if diff {
		memory = t.p.base.Size
	}
	if memory == 0 {
		return nil, errors.New("the size of the guest's memory was not given, which a full capture needs for staging")
	}
	staged, err := t.r.Stages.Begin(memory + stateRoom)
	var full *stage.NoRoomError
	if last := t.r.Lineage.dirty; diff && last > 0 && 2*last < memory && errors.As(err, &full) {
		return t.r.Stages.Begin(2*last + stateRoom)
	}
	return staged, err
}

// straight lets the VMM write into the draft.
func (t *taking) straight(ctx context.Context) error {
	t.memory, t.state = filepath.Join(t.p.draft.dir, rawName), filepath.Join(t.p.draft.dir, StateName)
	for _, path := range []string{t.memory, t.state} {
		if _, _, err := memimage.PrepareTarget(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// unstage lets the VMM write straight to disk after all.
func (t *taking) unstage(ctx context.Context, why error) error {
	if err := t.p.staged.Discard(); err != nil {
		return err
	}
	t.p.staged, t.p.result.Staged, t.p.result.Unstaged = nil, false, why
	return t.straight(ctx)
}

// refused tells whether the VMM itself said no: its answer leaves no doubt about
// what it regards as dirty.
func refused(err error) bool {
	var refused *firecracker.APIError
	return errors.As(err, &refused)
}
