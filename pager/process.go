package pager

import (
	"bytes"
	"os"
	"runtime"
	"strconv"

	"github.com/faultline-vm/faultline/pager/control"
)

// processStats describes this process. Figures that /proc does not give are 0.
func processStats() control.ProcessStats {
	// This stops the world for some microseconds, and counts exactly: the cheaper
	// counters of runtime/metrics lag behind by thousands of objects.
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	st := control.ProcessStats{HeapObjects: memory.Mallocs, Goroutines: runtime.NumGoroutine()}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := bytes.Fields(statm); len(fields) > 1 {
			pages, _ := strconv.ParseUint(string(fields[1]), 10, 64)
			st.ResidentBytes = pages * uint64(os.Getpagesize())
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		st.OpenFiles = len(fds)
	}
	return st
}
