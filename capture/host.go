package capture

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
)

// hostKernel returns the release of the running kernel.
func hostKernel() (string, error) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("kernel release: %w; mount /proc", err)
	}
	return oneLine(string(release)), nil
}

// cpuModel returns the name of the host's CPU.
func cpuModel() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("CPU model: %w; mount /proc", err)
	}
	return parseCPUModel(info), nil
}

// parseCPUModel finds the first CPU's model in /proc/cpuinfo, or returns "". On
// arm64 the kernel names no model but numbers.
func parseCPUModel(info []byte) string {
	fields := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(info))
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "" {
		name, value, _ := strings.Cut(lines.Text(), ":")
		fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if model := fields["model name"]; model != "" {
		return oneLine(model)
	}
	if implementer := fields["CPU implementer"]; implementer != "" {
		return oneLine(fmt.Sprintf("implementer %s part %s variant %s revision %s", implementer,
			fields["CPU part"], fields["CPU variant"], fields["CPU revision"]))
	}
	return ""
}

// oneLine makes a text fit for a record.
func oneLine(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return -1
		}
		return c
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "")
}

// Host returns the host's CPU and kernel as a record names them.
func Host() (cpu, kernel string, err error) {
	if kernel, err = hostKernel(); err != nil {
		return "", "", err
	}
	cpu, err = cpuModel()
	return cpu, kernel, err
}
