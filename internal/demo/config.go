package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/pager/client"
)

const mebibyte = 1 << 20

// Config says what to demonstrate.
type Config struct {
	// Forks is the number of forks, at least 1.
	Forks int
	// Parallel is how many of them are restored, and later checked, at the same
	// time; at least 1.
	Parallel int
	// Memory is the size of the guest in bytes, whole MiB.
	Memory uint64
	// WorkingSet is how much of it the guest fills, checks and rewrites, in
	// bytes, whole pages of 4 KiB. 0 means 64 MiB, and 16 MiB where the host
	// emulates the guest's code.
	WorkingSet uint64
	// Hypervisor is auto, firecracker or fcsim.
	Hypervisor string
	// Backend is where the forks' memory comes from, instance.File or instance.Uffd.
	Backend instance.Backend
	// HugePages backs the guest with 2 MiB pages from the host's pool.
	HugePages bool
	// DataDir is where to put the data directory; empty means the system's
	// directory for temporary files. What else is in it is left alone.
	DataDir string
	// Keep leaves the data directory behind.
	Keep bool
	// PagerBinary is the pager; empty means beside this program, else on PATH.
	PagerBinary string
	// SimulatorBinary is fcsim; empty means beside this program, else on PATH.
	SimulatorBinary string
	// KillPager is how often at least to end the pager with kill -9, at random
	// moments of the forks' lives. 0 leaves it alone.
	KillPager int
	// Linux is a Linux guest to boot instead of the built-in one, if it names a
	// kernel. Its program must beat as package guest/linux reads it. Empty boot
	// arguments mean the default ones, with the working set if that is given.
	Linux linux.Guest
	// WatchPager is called with the running pager, if there is one, beside the
	// forks' work. It must return soon after its context ends. Nil watches nothing.
	WatchPager func(ctx context.Context, pager *client.Client)
	// Progress gets lines for a person while the work goes on.
	Progress io.Writer
}

func (c Config) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Forks < 1 {
		fail("%d forks: use at least 1", c.Forks)
	}
	if c.Parallel < 1 {
		fail("%d forks at the same time: use at least 1", c.Parallel)
	}
	if c.Memory == 0 || c.Memory%mebibyte != 0 {
		fail("a guest of %d bytes: use whole MiB, like 256MiB", c.Memory)
	}
	if c.WorkingSet%guest.PageSize != 0 {
		fail("a working set of %d bytes: use whole pages of 4 KiB, like 64MiB", c.WorkingSet)
	}
	if c.Linux.Kernel == "" && (c.Linux.Initrd != "" || c.Linux.BootArgs != "") {
		fail("an initial RAM disk or boot arguments and no kernel: name the kernel too")
	}
	switch c.Backend {
	case instance.File, instance.Uffd:
	default:
		fail("backend %q: use %s or %s", c.Backend, instance.File, instance.Uffd)
	}
	if c.KillPager < 0 || c.KillPager > 0 && c.Backend == instance.File {
		fail("killing the pager %d times: use 0 or more, and the backend uffd", c.KillPager)
	}
	if c.HugePages && c.Backend == instance.File {
		fail("2 MiB pages can only be restored through the pager: use the backend uffd")
	}
	return errors.Join(errs...)
}

// Working sets that every fork checks within a few seconds.
const (
	usualWorkingSet    = 64 * mebibyte
	emulatedWorkingSet = 16 * mebibyte
)

// fewWords is how many words of each page the built-in guest writes and compares
// where the host emulates its code, one instruction at a time. The first and the
// last word of every page are among them. Elsewhere it is every word.
const fewWords = 8

// program returns what runs in the guests of a VMM. It decides what the
// configuration leaves open.
func (c *Config) program(vmm firecracker.Binary) (program, error) {
	if c.Linux.Kernel != "" {
		if vmm.Name == firecracker.Simulator {
			return nil, errors.New("the simulator runs no kernel: leave the kernel out, or use the hypervisor firecracker")
		}
		return newLinuxGuest(c)
	}
	emulated := vmm.Name == firecracker.Real && !hardwareVirtualisation()
	switch {
	case c.WorkingSet != 0:
	case emulated:
		c.WorkingSet = emulatedWorkingSet
	default:
		c.WorkingSet = usualWorkingSet
	}
	w := guest.Default(c.WorkingSet / guest.PageSize)
	w.Step = guest.ScatterStep(w.Pages)
	if emulated {
		w.Words = fewWords
	}
	if err := w.Validate(c.Memory); err != nil {
		return nil, err
	}
	return workloadGuest{workload: w, memory: c.Memory}, nil
}

// hardwareVirtualisation reports whether the host's processors run guest code by
// themselves, by the flags in /proc/cpuinfo. When in doubt it says yes: the guest
// then only takes longer.
func hardwareVirtualisation() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(info)) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(flags) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
		return false
	}
	return true // no x86
}
