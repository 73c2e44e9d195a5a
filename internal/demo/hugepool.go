package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

const (
	hugePage = 2 * mebibyte
	freeHuge = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
	// extraHuge is how many pages of 2 MiB a guest touches beside its working
	// set: its program, its state, what the VMM puts into low memory.
	extraHuge = 8
)

// checkHugePool reports whether the host has the 2 MiB pages that the
// demonstration will touch. A VMM that gets none when it touches memory dies of a
// SIGBUS, which explains nothing.
func (c Config) checkHugePool() error {
	if !c.HugePages {
		return nil
	}
	text, err := os.ReadFile(freeHuge)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel has no pages of 2 MiB: leave --huge-pages out")
	}
	if err != nil {
		return fmt.Errorf("free pages of 2 MiB: %w", err)
	}
	free, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("free pages of 2 MiB: %s: %w", freeHuge, err)
	}
	if need := c.hugePagesNeeded(); free < need {
		return fmt.Errorf("the host's pool has %d free pages of 2 MiB and %d are needed: enlarge it by writing to /proc/sys/vm/nr_hugepages, or use fewer forks or a smaller working set",
			free, need)
	}
	return nil
}

// hugePagesNeeded is an upper bound: the capture reads all memory of the source,
// each fork touches its working set.
func (c Config) hugePagesNeeded() uint64 {
	whole := (c.Memory + hugePage - 1) / hugePage
	touched := min(whole, (c.WorkingSet+hugePage-1)/hugePage+extraHuge)
	return max(whole, uint64(c.Forks)*touched)
}
