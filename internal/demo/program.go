package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/talk"
)

// program is what runs in the guest and can tell whether its memory is right.
type program interface {
	// name says what it is, for a person.
	name() string
	// install puts into spec what the guest boots from, which it may make in dir,
	// and where it looks for its identity page, if it does.
	install(dir string, spec *instance.Spec) error
	// booted waits until the guest has filled its memory, and has checked it.
	booted(ctx context.Context, t *talk.Talk) error
	// answer waits for the first sign of life of a restored guest.
	answer(ctx context.Context, t *talk.Talk) error
	// verify has the guest check all of its memory, write, and check again.
	verify(ctx context.Context, t *talk.Talk) (verdict, error)
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

func (g workloadGuest) install(dir string, spec *instance.Spec) error {
	image, err := kernel.Build(g.workload, g.memory, kernel.Options{})
	if err != nil {
		return err
	}
	spec.Kernel, spec.BootArgs = filepath.Join(dir, "kernel"), g.workload.BootArgs()
	spec.IdentityAddress = guest.IdentityAddress
	if err := os.WriteFile(spec.Kernel, image, 0o600); err != nil {
		return fmt.Errorf("write the guest's kernel: %w", err)
	}
	return nil
}

func (g workloadGuest) booted(ctx context.Context, t *talk.Talk) error {
	if _, err := t.Await(ctx, guest.Ready); err != nil {
		return err
	}
	checked, err := t.Ask(ctx, guest.CommandCheck, guest.Check)
	if err != nil {
		return err
	}
	if checked.Bad != 0 || checked.Pages != g.workload.Pages {
		return fmt.Errorf("the source guest found %d of its %d pages wrong before the capture, page %d first",
			checked.Bad, checked.Pages, checked.First)
	}
	return nil
}

func (g workloadGuest) answer(ctx context.Context, t *talk.Talk) error {
	_, err := t.Ask(ctx, guest.CommandPing, guest.Pong)
	return err
}

func (g workloadGuest) verify(ctx context.Context, t *talk.Talk) (verdict, error) {
	var v verdict
	check := func() (guest.Report, error) {
		r, err := t.Ask(ctx, guest.CommandCheck, guest.Check)
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
	written, err := t.Ask(ctx, guest.CommandWrite, guest.Write)
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
