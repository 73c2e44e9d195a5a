package chaos

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/talk"
	"github.com/faultline-vm/faultline/pager/control"
)

// Memory of the guests in MiB. What a balloon takes is partly filled, so that zeros
// there are the balloon's doing.
const (
	guestMiB, guestBalloonMiB = 48, 12
	linuxMiB, linuxBalloonMiB = 64, 6
	linuxCheckedMiB           = 4
)

// guestProgram is what runs in a guest and knows what each of its pages must hold.
type guestProgram interface {
	// boot says what to boot and puts the files for it into the VMM's directory.
	boot(spec *hypervisor.BootSpec) error
	// booted waits until the guest has filled its memory.
	booted(ctx context.Context, t *talk.Talk) error
	// overlays are the pages that tell the fork of that number from its siblings.
	overlays(number uint64) []control.Overlay
	// answer waits for the first sign of life of a restored guest. What the guest
	// says about a check that was under way when it was captured counts as well.
	answer(ctx context.Context, t *talk.Talk) error
	// check has the guest check and rewrite its memory, and returns how many pages
	// were right.
	check(ctx context.Context, t *talk.Talk, number uint64) (right uint64, err error)
	// pages is about how many 4 KiB pages of a fork are not zero.
	pages() uint64
	// balloon is how many MiB an inflating balloon takes.
	balloon() int
}

// workloadGuest is the guest of package guest. The simulator takes it from the boot
// arguments, Firecracker from the kernel.
type workloadGuest struct{ w guest.Workload }

// newWorkload describes it for a cell. The freestanding program has no balloon, and
// where its code is emulated each word that it compares costs a microsecond.
func newWorkload(c Cell) workloadGuest {
	const pages = 2048
	w := guest.Default(pages)
	w.Spread, w.Step, w.Free = 2, guest.ScatterStep(pages), 8<<20/guest.PageSize
	if c.VMM == realVMM {
		w.Words, w.Free = 8, 0
	}
	return workloadGuest{w}
}

func (g workloadGuest) boot(spec *hypervisor.BootSpec) error {
	// The simulator does not look into the kernel, which knows no free pages.
	program := g.w
	program.Free = 0
	image, err := kernel.Build(program, guestMiB<<20, kernel.Options{})
	if err != nil {
		return err
	}
	spec.Kernel, spec.BootArgs, spec.MemoryMiB = "kernel", g.w.BootArgs(), guestMiB
	if g.w.Free > 0 {
		spec.Balloon = &hypervisor.Balloon{}
	}
	return os.WriteFile(filepath.Join(spec.Dir, spec.Kernel), image, 0o600)
}

func (g workloadGuest) booted(ctx context.Context, t *talk.Talk) error {
	_, err := t.Await(ctx, guest.Ready)
	return err
}

func (g workloadGuest) overlays(number uint64) []control.Overlay {
	return []control.Overlay{{Offset: guest.IdentityAddress, Data: binary.LittleEndian.AppendUint64(nil, number)}}
}

func (g workloadGuest) answer(ctx context.Context, t *talk.Talk) error {
	r, err := t.Settle(ctx)
	if err == nil && r.Bad > 0 {
		err = wrongPages(r.Bad, fmt.Sprintf("page %d first", r.First))
	}
	return err
}

func (g workloadGuest) check(ctx context.Context, t *talk.Talk, number uint64) (uint64, error) {
	r, err := t.Ask(ctx, guest.CommandCheck, guest.Check)
	if err != nil {
		return 0, err
	}
	all := g.w.Pages + g.w.Free
	switch {
	case r.Bad > 0:
		return 0, wrongPages(r.Bad, fmt.Sprintf("page %d first", r.First))
	case r.Pages != all:
		return 0, fmt.Errorf("the guest checked %d pages instead of %d", r.Pages, all)
	case r.ID != number:
		return 0, wrongPages(1, fmt.Sprintf("its identity page, which says %d instead of %d", r.ID, number))
	}
	_, err = t.Write(ctx)
	return r.Pages, err
}

func (g workloadGuest) pages() uint64 { return g.w.Pages + g.w.Free }
func (g workloadGuest) balloon() int  { return guestBalloonMiB }

// linuxGuest is a Linux whose program beats as package guest/linux reads it.
type linuxGuest struct{ files linux.Guest }

func (g linuxGuest) boot(spec *hypervisor.BootSpec) error {
	args := strings.Fields(g.files.BootArgs)
	for i, arg := range args {
		if strings.HasPrefix(arg, "mib=") {
			args[i] = fmt.Sprintf("mib=%d", linuxCheckedMiB)
		}
	}
	spec.Kernel, spec.Initrd, spec.BootArgs = g.files.Kernel, g.files.Initrd, strings.Join(args, " ")
	spec.MemoryMiB, spec.Balloon = linuxMiB, &hypervisor.Balloon{DeflateOnOOM: true}
	return nil
}

func (g linuxGuest) booted(ctx context.Context, t *talk.Talk) error { return t.Beating(ctx) }

func (g linuxGuest) overlays(uint64) []control.Overlay { return nil }

func (g linuxGuest) answer(ctx context.Context, t *talk.Talk) error {
	_, err := g.check(ctx, t, 0)
	return err
}

// check waits for a beat. The guest checks all of its memory for each.
func (g linuxGuest) check(ctx context.Context, t *talk.Talk, _ uint64) (uint64, error) {
	b, err := t.Beat(ctx)
	if err == nil && !b.Right() {
		err = wrongPages(1, fmt.Sprintf("beat %d found %d words wrong", b.Number, b.BadWords))
	}
	return linuxCheckedMiB << 20 / guest.PageSize, err
}

func (g linuxGuest) pages() uint64 { return 4096 }
func (g linuxGuest) balloon() int  { return linuxBalloonMiB }

// wrongError is what makes a cell fail for the worst of reasons.
type wrongError struct {
	pages uint64
	which string
}

func wrongPages(pages uint64, which string) error { return &wrongError{pages, which} }

func (e *wrongError) Error() string {
	return fmt.Sprintf("%d pages of the guest's memory are wrong: %s", e.pages, e.which)
}
