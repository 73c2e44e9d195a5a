package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/demo"
)

type demoCommand struct {
	Forks      int           `default:"25" help:"How many forks to restore."`
	Parallel   int           `default:"32" help:"How many of them to restore at the same time."`
	Mem        size          `default:"256MiB" help:"Memory of the guest."`
	WorkingSet size          `help:"How much of it the guest fills and every fork checks; default is 64MiB, 16MiB where the host emulates guests."`
	Hypervisor string        `enum:"auto,firecracker,fcsim" default:"auto" help:"What runs the microVMs: auto, firecracker or fcsim, its simulator."`
	Backend    string        `enum:"file,uffd" default:"uffd" help:"Where forks get their memory: uffd (through the pager) or file (mapped by the VMM)."`
	HugePages  bool          `help:"Back the guest with 2 MiB pages from the host's pool."`
	KillPager  bool          `help:"Kill the pager with kill -9 at random moments, 20 times or more, while a supervisor restarts it."`
	JSON       bool          `name:"json" help:"Print one JSON object instead of a table."`
	DataDir    string        `type:"path" help:"Where to put the data directory; default is the directory for temporary files."`
	Keep       bool          `help:"Keep the data directory."`
	Timeout    time.Duration `default:"5m" help:"Give up after this long."`

	Kernel   string `type:"existingfile" env:"FAULTLINE_LINUX_KERNEL" help:"Boot this Linux kernel instead of the built-in guest; needs firecracker, and a program that checks its memory, see docs/demo.md."`
	Initrd   string `type:"existingfile" env:"FAULTLINE_LINUX_INITRD" help:"The initial RAM disk of --kernel."`
	BootArgs string `env:"FAULTLINE_LINUX_BOOT_ARGS" help:"The boot arguments of --kernel; mib= says how much memory the guest checks."`
}

func (c demoCommand) Run(ctx context.Context, s streams) error {
	tooLong := fmt.Errorf("not done after %v; give it more with --timeout, or less to do", c.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, tooLong)
	defer cancel()
	kills := 0
	if c.KillPager {
		kills = 20
	}
	result, err := demo.Run(ctx, demo.Config{
		Forks: c.Forks, Parallel: c.Parallel,
		Memory: uint64(c.Mem), WorkingSet: uint64(c.WorkingSet),
		Hypervisor: c.Hypervisor, Backend: instance.Backend(c.Backend), HugePages: c.HugePages,
		DataDir: c.DataDir, Keep: c.Keep, KillPager: kills,
		Linux:    linux.Guest{Kernel: c.Kernel, Initrd: c.Initrd, BootArgs: c.BootArgs},
		Progress: s.err,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(s, result)
	} else {
		err = result.WriteTable(s.out)
	}
	if err != nil {
		return err
	}
	if !result.OK() {
		return fmt.Errorf("%d of %d forks failed, %d pages were wrong, the pager died %d times by itself",
			len(result.Failures), result.Forks, result.PagesMismatched, result.PagerDeaths)
	}
	return nil
}
