package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/talk"
)

// beats is how many beats of a fork are awaited: the first has read all of its
// memory through the pager, the second shows that it goes on.
const beats = 2

// linuxGuest is a Linux whose program beats as package guest/linux reads it. It
// obeys no commands and has no identity page.
type linuxGuest struct {
	linux linux.Guest
	pages uint64 // compared per beat
}

const mibArgument = "mib="

// newLinuxGuest sets the working set to what the boot arguments say the guest
// checks, and the other way round where there are no boot arguments.
func newLinuxGuest(c *Config) (program, error) {
	g := linuxGuest{linux: c.Linux}
	if g.linux.BootArgs == "" {
		g.linux.BootArgs = linux.DefaultBootArgs
		if c.WorkingSet != 0 {
			g.linux.BootArgs = withMiB(linux.DefaultBootArgs, c.WorkingSet/mebibyte)
		}
	}
	checked, err := checkedMiB(g.linux.BootArgs)
	if err != nil {
		return nil, err
	}
	c.WorkingSet = checked * mebibyte
	g.pages = c.WorkingSet / guest.PageSize
	if c.WorkingSet >= c.Memory {
		return nil, fmt.Errorf("a Linux guest of %d MiB cannot check %d MiB: use a smaller working set or more memory",
			c.Memory/mebibyte, checked)
	}
	// The manager wants absolute paths.
	for _, path := range []*string{&g.linux.Kernel, &g.linux.Initrd} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = absolute
	}
	return g, nil
}

// withMiB returns boot arguments that make the guest check so many MiB.
func withMiB(args string, mib uint64) string {
	words := slices.DeleteFunc(strings.Fields(args), func(arg string) bool { return strings.HasPrefix(arg, mibArgument) })
	return strings.Join(append(words, fmt.Sprintf("%s%d", mibArgument, mib)), " ")
}

// checkedMiB returns how many MiB boot arguments make the guest check.
func checkedMiB(args string) (uint64, error) {
	for _, arg := range strings.Fields(args) {
		if text, found := strings.CutPrefix(arg, mibArgument); found {
			mib, err := strconv.ParseUint(text, 10, 32)
			if err != nil || mib == 0 {
				return 0, fmt.Errorf("boot argument %q: say how many MiB the guest checks", arg)
			}
			return mib, nil
		}
	}
	return 0, fmt.Errorf("boot arguments %q: add %s<how many MiB the guest checks>", args, mibArgument)
}

func (g linuxGuest) name() string {
	return fmt.Sprintf("Linux, checks %d pages", g.pages)
}

// install names no identity page: all of memory belongs to the kernel.
func (g linuxGuest) install(_ string, spec *instance.Spec) error {
	spec.Kernel, spec.Initrd, spec.BootArgs = g.linux.Kernel, g.linux.Initrd, g.linux.BootArgs
	return nil
}

func (g linuxGuest) booted(ctx context.Context, t *talk.Talk) error {
	if err := t.Beating(ctx); err != nil {
		return err
	}
	v, err := g.beat(ctx, t)
	if err == nil && v.wrong > 0 {
		err = fmt.Errorf("the source guest found %d pages wrong before the capture", v.wrong)
	}
	return err
}

func (g linuxGuest) answer(ctx context.Context, t *talk.Talk) error {
	_, err := g.beat(ctx, t)
	return err
}

func (g linuxGuest) verify(ctx context.Context, t *talk.Talk) (verdict, error) {
	var sum verdict
	for range beats {
		v, err := g.beat(ctx, t)
		if err != nil {
			return sum, err
		}
		sum.right += v.right
		sum.wrong += v.wrong
	}
	return sum, nil
}

// beat waits for the guest's next check of its memory.
func (g linuxGuest) beat(ctx context.Context, t *talk.Talk) (verdict, error) {
	beat, err := t.Beat(ctx)
	if err != nil {
		return verdict{}, err
	}
	// It counts words: no more pages can be wrong than that.
	bad := min(beat.BadWords, g.pages)
	return verdict{right: g.pages - bad, wrong: bad}, nil
}
