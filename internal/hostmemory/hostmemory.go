// Package hostmemory tells how much memory the host has.
//
// The package owns nothing and has no state.
package hostmemory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Total returns the host's usable memory in bytes, as sysinfo(2) counts it.
func Total() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("size of the host's memory: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}
