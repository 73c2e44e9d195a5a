package cli

import (
	"fmt"
	"os"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
)

type guestCommand struct {
	Kernel guestKernelCommand `cmd:"" help:"Write the built-in guest, which checks its own memory, as a kernel to boot."`
}

type guestKernelCommand struct {
	Output string `short:"o" required:"" type:"path" help:"The file to write."`
	Mem    size   `default:"64MiB" help:"Memory of the instance that will boot it."`
	Pages  uint64 `default:"2048" help:"How many pages of 4 KiB it fills, checks and rewrites."`
	Words  uint64 `default:"512" help:"How many words of each page it writes and compares; fewer are faster where the host emulates guests."`
	Auto   bool   `help:"Check and rewrite for ever instead of waiting for commands on the console."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// guestKernel is what was written, and how to boot it.
type guestKernel struct {
	Kernel          string `json:"kernel"`
	BootArgs        string `json:"boot_args"`
	MemoryBytes     uint64 `json:"memory_bytes"`
	IdentityAddress uint64 `json:"identity_address"`
}

func (c guestKernelCommand) Run(s streams) error {
	w := guest.Default(c.Pages)
	w.Words, w.Auto = c.Words, c.Auto
	w.Step = guest.ScatterStep(w.Pages)
	image, err := kernel.Build(w, uint64(c.Mem), kernel.Options{})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Output, image, 0o644); err != nil {
		return fmt.Errorf("write the guest's kernel: %w", err)
	}
	written := guestKernel{Kernel: c.Output, BootArgs: w.BootArgs(), MemoryBytes: uint64(c.Mem), IdentityAddress: guest.IdentityAddress}
	if c.JSON {
		return printJSON(s, written)
	}
	// The simulator runs no kernel: it takes the workload from the boot arguments.
	_, err = fmt.Fprintf(s.out, "faultline create --kernel %s --mem %dMiB --boot-args '%s' --identity-address %d NAME\n",
		written.Kernel, written.MemoryBytes>>20, written.BootArgs, written.IdentityAddress)
	return err
}
