package stage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// memAvailable returns the kernel's estimate of the bytes that new pages can take
// without swapping.
func memAvailable() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseMemAvailable(data)
}

// parseMemAvailable finds the line "MemAvailable:  N kB" in /proc/meminfo.
func parseMemAvailable(data []byte) (uint64, error) {
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) != 3 || string(fields[0]) != "MemAvailable:" || string(fields[2]) != "kB" {
			continue
		}
		kib, err := strconv.ParseUint(string(fields[1]), 10, 54)
		if err != nil {
			return 0, fmt.Errorf("read /proc/meminfo: %w", err)
		}
		return kib << 10, nil
	}
	return 0, errors.New("read /proc/meminfo: it has no line MemAvailable")
}
