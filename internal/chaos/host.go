package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/pagertest"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// host is what the cells of a run have in common, and what this host lacks.
type host struct {
	pager, later program // two versions of the pager
	drivers      map[string]*firecracker.Driver
	linux        linux.Guest
	// lacking says, by a value of a cell or by needLater and needLinux, why cells
	// that need it are skipped.
	lacking map[string]string
	shrink  func() error // gives the huge pages back
}

// program is a pager to start.
type program struct{ binary, version string }

// What cells need besides their values.
const (
	needLater = "a second version of the pager"
	needLinux = "a Linux guest"
)

// laterVersion is later than any that is released.
const laterVersion = "999.0.0"

// prepare looks for what the cells need. It fails only where no cell can run.
func prepare(ctx context.Context, cfg Config, dir string) (*host, error) {
	h := &host{
		drivers: map[string]*firecracker.Driver{}, lacking: map[string]string{}, shrink: func() error { return nil },
	}
	binary, err := supervisor.FindBinary(cfg.PagerBinary)
	if err != nil {
		return nil, err
	}
	h.pager, h.later = program{binary, pager.Version()}, program{cfg.LaterPager, laterVersion}
	if h.later.binary == "" {
		if h.later.binary, err = pagertest.Build(dir, laterVersion); err != nil {
			h.lacking[needLater] = fmt.Sprintf("%s: run in the project's source, with the go command: %v", needLater, err)
		}
	}
	for name, prefer := range map[string]firecracker.Preference{simulator: firecracker.PreferSimulator, realVMM: firecracker.PreferReal} {
		choice, err := firecracker.Choose(ctx, firecracker.Selection{Prefer: prefer, Simulator: cfg.SimulatorBinary})
		if err != nil {
			h.lacking[name] = err.Error()
			continue
		}
		h.drivers[name] = firecracker.New(firecracker.Config{Binary: choice.Binary, DieWithParent: true})
	}
	if h.linux, err = linux.Find(os.Getenv); err != nil {
		h.lacking[needLinux] = err.Error()
	}
	return h, nil
}

// reserve enlarges the pool of huge pages, or notes that it cannot be done.
func (h *host) reserve(pages int) error {
	if pages == 0 || h.lacking[page2M] != "" {
		return nil
	}
	shrink, err := hugepages.Grow(pages)
	if errors.Is(err, hugepages.ErrUnavailable) {
		h.lacking[page2M] = err.Error()
		return nil
	}
	if err == nil {
		h.shrink = shrink
	}
	return err
}

// runnable returns the cells that this host lacks nothing for.
func (h *host) runnable(cells []Cell) ([]Cell, error) {
	// Whether there can be huge pages shows in one.
	if err := h.reserve(1); err != nil {
		return nil, err
	}
	err := h.shrink()
	h.shrink = func() error { return nil }
	return slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return h.lacks(c) != "" }), err
}

// lacks says what this host lacks for a cell, or "".
func (h *host) lacks(c Cell) string {
	needs := c.values()
	if c.twoPagers() {
		needs = append(needs, needLater)
	}
	if c.linux() {
		needs = append(needs, needLinux)
	}
	for _, need := range needs {
		if reason := h.lacking[need]; reason != "" {
			return reason
		}
	}
	return ""
}

// hugePagesOf returns how many pages of 2 MiB the dearest of the cells needs: all of
// the memory of each guest, and of the one that is captured first.
func hugePagesOf(cells []Cell) (pages int) {
	for _, c := range cells {
		if c.Page == page2M && c.impossible() == "" {
			guest := guestMiB / 2
			if c.linux() {
				guest = linuxMiB / 2
			}
			pages = max(pages, (c.forks()+2)*guest)
		}
	}
	return pages
}
