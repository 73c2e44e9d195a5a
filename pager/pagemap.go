package pager

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/faultline-vm/faultline/pager/control"
)

// Bits of an entry of /proc/<pid>/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
)

// holds reports whether a process has memory at an address: the page was installed, and
// not given away since. It needs the permission to look into the process, as pidfd_getfd
// does.
func holds(pid int, address uint64) (bool, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return false, fmt.Errorf("whether the guest has a page: %w; the pager needs CAP_SYS_PTRACE, or the VMM's user", err)
	}
	defer file.Close()
	var entry [8]byte
	if _, err := file.ReadAt(entry[:], int64(address/control.PageSize)*8); err != nil {
		return false, fmt.Errorf("whether the guest has a page: %w", err)
	}
	return binary.NativeEndian.Uint64(entry[:])&(pagemapPresent|pagemapSwapped) != 0, nil
}
