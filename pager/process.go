package pager

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"

	"github.com/faultline-vm/faultline/pager/control"
)

// processStats describes this process. Figures that /proc does not give are 0.
func processStats() control.ProcessStats {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/tiny/allocs:objects"}}
	metrics.Read(sample)
	st := control.ProcessStats{
		HeapObjects: sample[0].Value.Uint64() + sample[1].Value.Uint64(),
		Goroutines:  runtime.NumGoroutine(),
	}
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
