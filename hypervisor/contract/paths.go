package contract

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// testRelativePaths shows why every path of a device is relative to the VMM's
// directory: the same VM state finds, in another directory, that one's files.
func (s suite) testRelativePaths(t *testing.T) {
	w := workload()
	source := s.boot(t, w, func(spec *hypervisor.BootSpec) {
		writeDisk(t, spec.Dir, "source")
		spec.Drives = []hypervisor.Drive{{ID: "data", Path: "disk.raw"}}
		spec.Vsock = &hypervisor.Vsock{GuestCID: 3, Path: "vsock.sock"}
	})
	requireDevices(t, source, "vsock.sock")
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")
	source.resume()

	t.Run("Fork", func(t *testing.T) {
		dir := shortdir.Make(t)
		writeDisk(t, dir, "fork")
		fork := s.restore(t, dir, w, c.fromFile())
		requireDevices(t, fork, "vsock.sock")
		fork.check()
	})
	t.Run("VsockOverride", func(t *testing.T) {
		dir := shortdir.Make(t)
		writeDisk(t, dir, "fork")
		spec := c.fromFile()
		spec.VsockOverride = "other.sock"
		fork := s.restore(t, dir, w, spec)
		requireDevices(t, fork, "other.sock")
		if _, err := os.Lstat(filepath.Join(dir, "vsock.sock")); err == nil {
			t.Error("the overridden vsock socket was made all the same")
		}
	})
	t.Run("MissingDisk", func(t *testing.T) { s.requireFailedLoad(t, shortdir.Make(t), c.fromFile()) })
	// The forks came and went while the source ran on.
	requireDevices(t, source, "vsock.sock")
	source.check()
}

func writeDisk(t *testing.T, dir, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), []byte(strings.Repeat(content+"\n", 4096))[:4096], 0o600); err != nil {
		t.Fatal(err)
	}
}

// requireDevices checks that the VMM has its own directory's disk open and has
// made its own directory's vsock socket.
func requireDevices(t *testing.T, m *machine, vsock string) {
	t.Helper()
	disk := filepath.Join(m.dir, "disk.raw")
	pid := m.Ref().PID
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	open := false
	for _, e := range entries {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if err == nil && strings.HasSuffix(target, "/disk.raw") {
			if target != disk {
				t.Errorf("the VMM in %s has %s open", m.dir, target)
			}
			open = true
		}
	}
	if !open {
		t.Errorf("the VMM in %s has no disk open", m.dir)
	}
	info, err := os.Lstat(filepath.Join(m.dir, vsock))
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("vsock socket of the VMM in %s: %v, error %v", m.dir, info, err)
	}
}
