package demo

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/internal/procstat"
)

// Percentiles of a distribution: the smallest values that are at least as large
// as that share of all.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// percentiles returns those of times, in milliseconds; zeros if there are none.
func percentiles(times []time.Duration) Percentiles {
	if len(times) == 0 {
		return Percentiles{}
	}
	sorted := slices.Sorted(slices.Values(times))
	at := func(share float64) float64 {
		rank := int(math.Ceil(share * float64(len(sorted))))
		return float64(sorted[max(rank, 1)-1]) / float64(time.Millisecond)
	}
	return Percentiles{P50: at(0.50), P95: at(0.95), P99: at(0.99)}
}

// proportionalMemory returns the memory of a process in bytes, pages that it
// shares with n-1 others counted as one n-th: Pss of /proc/<pid>/smaps_rollup
// (Linux 4.14).
func proportionalMemory(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("memory of a fork: %w", err)
	}
	bytes, err := parsePss(string(text))
	if err != nil {
		return 0, fmt.Errorf("memory of a fork: %s: %w", path, err)
	}
	return bytes, nil
}

func parsePss(text string) (uint64, error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == "Pss:" && words[2] == "kB" {
			kib, err := strconv.ParseUint(words[1], 10, 54)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no line Pss")
}

// processFaults returns how many page faults the kernel has handled for a
// process, with and without I/O.
func processFaults(pid int) (uint64, error) {
	stat, err := procstat.Read(pid)
	if err != nil {
		return 0, fmt.Errorf("faults of a fork: %w", err)
	}
	return stat.MinorFaults + stat.MajorFaults, nil
}

// diskReads returns how many bytes were read from disk for a process: read_bytes
// of /proc/<pid>/io, or 0 where the kernel does not count them.
func diskReads(pid int) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "read_bytes:"); found {
			bytes, err := strconv.ParseUint(strings.TrimSpace(count), 10, 64)
			if err == nil {
				return bytes
			}
		}
	}
	return 0
}
