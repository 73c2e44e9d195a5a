package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The names of the programs that this package runs, as they call themselves in
// lower case.
const (
	Real      = "firecracker"
	Simulator = "fcsim"
)

// Binary is a program that was asked for its version.
type Binary struct {
	// Path is absolute.
	Path string
	// Name is Real or Simulator.
	Name    string
	Version Version
	// SnapshotVersion is the version of the VM states it writes. The zero value
	// stands for a program that cannot tell (before Firecracker 1.7).
	SnapshotVersion Version
}

const (
	// probeTimeout bounds one question to a binary; they answer in milliseconds.
	probeTimeout = 5 * time.Second
	// maxProbeOutput is how much of a binary's output is looked at.
	maxProbeOutput = 64 << 10
)

// Probe asks the program at path which Firecracker or fcsim it is. It does not
// trust the program: its time and what is kept of its output are bounded.
func Probe(ctx context.Context, path string) (Binary, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Binary{}, err
	}
	text, err := ask(ctx, path, "--version")
	if err != nil {
		return Binary{}, err
	}
	name, version, err := ParseIdentity(text)
	if err != nil {
		return Binary{}, fmt.Errorf("%s --version: %w", path, err)
	}
	b := Binary{Path: path, Name: name, Version: version}
	if text, err = ask(ctx, path, "--snapshot-version"); err != nil {
		if ctx.Err() != nil {
			return Binary{}, err
		}
		// Versions before 1.7 do not know the flag; the field stays zero.
		return b, nil
	}
	if b.SnapshotVersion, err = ParseVersion(firstLine(text)); err != nil {
		return Binary{}, fmt.Errorf("%s --snapshot-version: %w", path, err)
	}
	return b, nil
}

// ask runs the program with one flag and returns the start of what it prints.
func ask(ctx context.Context, path, flag string) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := &head{limit: maxProbeOutput}
	cmd := exec.CommandContext(bounded, path, flag)
	cmd.Stdout = out
	cmd.Env = []string{}
	// The group is killed, not the process: a wrapper script's child must not
	// keep the pipe open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() == nil && bounded.Err() != nil {
			return "", fmt.Errorf("%s %s gave no answer within %v: is this Firecracker?", path, flag, probeTimeout)
		}
		return "", fmt.Errorf("%s %s: %w", path, flag, err)
	}
	return out.kept.String(), nil
}

// head keeps the first limit bytes that are written to it and drops the rest.
type head struct {
	limit int
	kept  bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), h.limit-h.kept.Len())])
	return len(p), nil
}

// ParseIdentity reads what --version prints: a line like "Firecracker v1.16.1",
// whatever follows it. Firecracker appends log lines.
func ParseIdentity(output string) (name string, version Version, err error) {
	line := firstLine(output)
	word, text, found := strings.Cut(line, " ")
	switch word {
	case "Firecracker":
		name = Real
	case "fcsim":
		name = Simulator
	default:
		found = false
	}
	if !found {
		return "", Version{}, errors.New("the answer does not begin with Firecracker or fcsim and a version: this is another program")
	}
	version, err = ParseVersion(text)
	return name, version, err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimRight(line, "\r ")
}
