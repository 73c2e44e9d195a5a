package demo

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/pager/control"
)

// program is what runs in the guest and can tell whether its memory is right.
type program interface {
	// name says what it is, for a person.
	name() string
	// install puts what the guest boots from into dir, the directory of its
	// VMM, and into spec.
	install(dir string, spec *hypervisor.BootSpec) error
	// identity returns the pages that make the fork of that number different
	// from its siblings, and whether the guest can tell.
	identity(number uint64) ([]control.Overlay, bool)
	// booted waits until the guest has filled its memory, and has checked it.
	booted(ctx context.Context, c *conversation) error
	// answer waits for the first sign of life of a restored guest.
	answer(ctx context.Context, c *conversation) error
	// verify has the guest check all of its memory, write, and check again.
	verify(ctx context.Context, c *conversation) (verdict, error)
}

// verdict is what a fork found out about its own memory.
type verdict struct {
	// right and wrong count the pages of all checks.
	right, wrong uint64
	// first is the number of a wrong page.
	first uint64
	// id is the identity that the guest sees.
	id uint64
	// seed is what its own write was made with. It differs from fork to fork.
	seed uint64
}

// workloadGuest is the guest of package guest: the simulator takes it from the
// boot arguments, Firecracker from the kernel, and each ignores the other.
type workloadGuest struct {
	workload guest.Workload
	memory   uint64
}

func (g workloadGuest) name() string {
	return fmt.Sprintf("built-in, %d pages of which %d bytes each are compared", g.workload.Pages, 8*g.workload.Words)
}

func (g workloadGuest) install(dir string, spec *hypervisor.BootSpec) error {
	image, err := kernel.Build(g.workload, g.memory, kernel.Options{})
	if err != nil {
		return err
	}
	spec.Kernel, spec.BootArgs = "kernel", g.workload.BootArgs()
	if err := os.WriteFile(filepath.Join(dir, spec.Kernel), image, 0o600); err != nil {
		return fmt.Errorf("write the guest's kernel: %w", err)
	}
	return nil
}

func (g workloadGuest) identity(number uint64) ([]control.Overlay, bool) {
	return []control.Overlay{{
		Offset: guest.IdentityAddress,
		Data:   binary.LittleEndian.AppendUint64(nil, number),
	}}, true
}

func (g workloadGuest) booted(ctx context.Context, c *conversation) error {
	if _, err := c.await(ctx, guest.Ready); err != nil {
		return err
	}
	checked, err := c.ask(ctx, guest.CommandCheck, guest.Check)
	if err != nil {
		return err
	}
	if checked.Bad != 0 || checked.Pages != g.workload.Pages {
		return fmt.Errorf("the source guest found %d of its %d pages wrong before the capture, page %d first",
			checked.Bad, checked.Pages, checked.First)
	}
	return nil
}

func (g workloadGuest) answer(ctx context.Context, c *conversation) error {
	_, err := c.ask(ctx, guest.CommandPing, guest.Pong)
	return err
}

func (g workloadGuest) verify(ctx context.Context, c *conversation) (verdict, error) {
	var v verdict
	check := func() (guest.Report, error) {
		r, err := c.ask(ctx, guest.CommandCheck, guest.Check)
		if err != nil {
			return r, err
		}
		if r.Pages != g.workload.Pages || r.Bad > r.Pages {
			return r, fmt.Errorf("the guest checked %d pages instead of %d", r.Pages, g.workload.Pages)
		}
		v.right += r.Pages - r.Bad
		v.wrong += r.Bad
		if r.Bad > 0 {
			v.first = r.First
		}
		return r, nil
	}
	before, err := check()
	if err != nil {
		return v, err
	}
	written, err := c.ask(ctx, guest.CommandWrite, guest.Write)
	if err != nil {
		return v, err
	}
	after, err := check()
	if err != nil {
		return v, err
	}
	if written.Pages == 0 || after.Pass != before.Pass+1 || after.Seed != written.Seed {
		return v, fmt.Errorf("the guest wrote %d pages and went from pass %d to pass %d: its write did not happen as asked",
			written.Pages, before.Pass, after.Pass)
	}
	v.id, v.seed = after.ID, written.Seed
	return v, nil
}
