package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// fork is one fork of the capture. It is used by one goroutine at a time.
//
//	new ─restore─▶ restored ─verify─▶ verified ─measure─▶ measured ─end─▶ ended
//
// A step that fails leaves err set; the steps that follow are skipped, except
// for the last.
type fork struct {
	number  uint64 // from 1: zero is what the source's identity page holds
	id      string
	session bool // the pager has one
	vmm     hypervisor.VMM
	talk    *conversation

	load, ready time.Duration // since the restore began
	verdict     verdict
	memory      uint64 // bytes, shared pages counted proportionally
	faults      uint64 // with the File backend: of the VMM, by the kernel
	read        uint64 // with the File backend: from disk
	err         error
}

func newFork(number uint64) *fork {
	return &fork{number: number, id: fmt.Sprintf("fork-%03d", number)}
}

// restore starts a VMM with the capture's state and waits for its first answer.
func (d *demo) restore(ctx context.Context, f *fork, c captured, pager *client.Client) error {
	began := time.Now()
	dir, err := d.instanceDir(f.id)
	if err != nil {
		return err
	}
	// Names of its own for all that it needs: nothing of another owner has to
	// stay where it is.
	if err := os.Link(c.state, filepath.Join(dir, stateName)); err != nil {
		return fmt.Errorf("link the VM state: %w", err)
	}
	if err := d.load(ctx, f, c, dir, pager); err != nil {
		return err
	}
	f.load = time.Since(began)
	if f.talk, err = converse(f.vmm); err != nil {
		return err
	}
	if err := d.guest.answer(ctx, f.talk); err != nil {
		return err
	}
	f.ready = time.Since(began)
	return nil
}

// memory makes ready where the fork's memory comes from.
func (d *demo) memory(ctx context.Context, f *fork, c captured, dir string, pager *client.Client) (hypervisor.Memory, error) {
	if d.cfg.Backend == File {
		if err := os.Link(c.flat, filepath.Join(dir, memoryName)); err != nil {
			return hypervisor.Memory{}, fmt.Errorf("link the memory image: %w", err)
		}
		return hypervisor.Memory{Backend: hypervisor.File, Path: memoryName}, nil
	}
	session, err := d.createSession(ctx, f, c, pager)
	if err != nil {
		return hypervisor.Memory{}, fmt.Errorf("create a session: %w", err)
	}
	f.session = true
	return hypervisor.Memory{Backend: hypervisor.Uffd, Path: session.Socket}, nil
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
	_, tells := d.guest.identity(f.number)
	if tells && d.cfg.Backend == Uffd && f.verdict.id != f.number {
		return fmt.Errorf("it sees identity %d instead of %d", f.verdict.id, f.number)
	}
	if err := f.vmm.Pause(ctx); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// measure reads what the fork costs, while all of its siblings exist.
func (d *demo) measure(f *fork) error {
	pid := f.vmm.Ref().PID
	var err error
	if f.memory, err = proportionalMemory(pid); err != nil {
		return err
	}
	if d.cfg.Backend == File {
		if f.faults, err = processFaults(pid); err != nil {
			return err
		}
		f.read = diskReads(pid)
	}
	return nil
}

// end ends the fork's VMM and session, whatever has become of it.
func (d *demo) end(ctx context.Context, f *fork, pager *client.Client) error {
	var errs []error
	if f.talk != nil {
		errs = append(errs, f.talk.close())
	}
	if f.vmm != nil {
		errs = append(errs, kill(ctx, f.vmm))
	}
	if f.session {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		errs = append(errs, d.closeSession(ctx, f, pager))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end %s: %w", f.id, err)
	}
	return nil
}

// explain closes the session of a fork that has failed and adds to its error why
// the pager gave the session up, if it did: the VMM only knows that it was killed.
func (f *fork) explain(ctx context.Context, pager *client.Client) {
	if f.err == nil || !f.session || ctx.Err() != nil {
		return
	}
	f.session = false
	session, err := pager.CloseSession(ctx, f.id)
	switch {
	case err != nil:
		f.err = fmt.Errorf("%w; and its session does not close: %w", f.err, err)
	case session.State == control.Failed:
		f.err = fmt.Errorf("the pager ended its session: %s (%w)", session.Reason, f.err)
	}
}
