package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Environment is what a figure depends on. What the host does not tell is empty.
type Environment struct {
	Faultline   string `json:"faultline"` // its version, as git describes it
	Go          string `json:"go"`
	Arch        string `json:"arch"`
	Kernel      string `json:"kernel"`
	CPUs        int    `json:"cpus"` // that this program may use
	CPUModel    string `json:"cpu_model"`
	MemoryBytes uint64 `json:"memory_bytes"`
}

// environment describes this host to a build of that version.
func environment(version string) Environment {
	return Environment{
		Faultline:   version,
		Go:          runtime.Version(),
		Arch:        runtime.GOARCH,
		Kernel:      strings.TrimSpace(proc("sys/kernel/osrelease")),
		CPUs:        runtime.NumCPU(),
		CPUModel:    field(proc("cpuinfo"), "model name"),
		MemoryBytes: kibibytes(field(proc("meminfo"), "MemTotal")),
	}
}

// proc returns a file of /proc, empty where it cannot be read.
func proc(name string) string {
	text, err := os.ReadFile("/proc/" + name)
	if err != nil {
		return ""
	}
	return string(text)
}

// field returns the value of the first line of that name, empty without one.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, found := strings.Cut(line, ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kibibytes returns the bytes of a size as /proc/meminfo writes it, 0 for
// anything else.
func kibibytes(text string) uint64 {
	digits, found := strings.CutSuffix(text, " kB")
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 54)
	if err != nil || !found {
		return 0
	}
	return n << 10
}
