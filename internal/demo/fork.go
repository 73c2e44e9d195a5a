package demo

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/talk"
)

// fork is one fork of the snapshot. It is used by one goroutine at a time.
//
//	new ─restore─▶ restored ─verify─▶ verified ─measure─▶ measured
//
// A step that fails leaves err set; the steps that follow are skipped.
type fork struct {
	name     string
	instance instance.Instance // once it is restored
	talk     *talk.Talk

	load, ready time.Duration // since the restore began
	verdict     verdict
	memory      uint64 // bytes, shared pages counted proportionally
	faults      uint64 // with the File backend: of the VMM, by the kernel
	read        uint64 // with the File backend: from disk
	err         error
}

func newFork(number int) *fork { return &fork{name: fmt.Sprintf("fork-%03d", number)} }

// restore makes the fork and waits for its guest's first answer.
func (d *demo) restore(ctx context.Context, f *fork) error {
	began := time.Now()
	if err := d.bear(ctx, f); err != nil {
		return err
	}
	f.load = time.Since(began)
	var err error
	if f.talk, err = talk.Open(machine{d.manager, f.instance.ID}); err != nil {
		return err
	}
	if err := d.guest.answer(ctx, f.talk); err != nil {
		return err
	}
	f.ready = time.Since(began)
	return nil
}

// verify has the guest check, write and check again, and pauses it then: a fork
// that is done does not take time from those that are not.
func (d *demo) verify(ctx context.Context, f *fork) error {
	var err error
	if f.verdict, err = d.guest.verify(ctx, f.talk); err != nil {
		return err
	}
	if f.verdict.wrong > 0 {
		return fmt.Errorf("%d pages were wrong, page %d among them", f.verdict.wrong, f.verdict.first)
	}
	if want := identityOf(f.instance); d.identified && f.verdict.id != want {
		return fmt.Errorf("it sees identity %#x instead of %#x", f.verdict.id, want)
	}
	if err := d.persist(ctx, f, d.manager.Pause); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// identityOf returns the number that stands first on a fork's identity page.
func identityOf(i instance.Instance) uint64 {
	return binary.LittleEndian.Uint64(instance.IdentityPage(i.ID, i.Name, nil))
}

// measure reads what the fork costs, while all of its siblings exist.
func (d *demo) measure(f *fork) error {
	pid := f.instance.PID
	var err error
	if f.memory, err = proportionalMemory(pid); err != nil {
		return err
	}
	if d.cfg.Backend == instance.File {
		if f.faults, err = processFaults(pid); err != nil {
			return err
		}
		f.read = diskReads(pid)
	}
	return nil
}
