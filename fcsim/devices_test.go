package fcsim

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/shortdir"
)

// withDevices boots a guest with a drive and a vsock under relative paths and
// captures it.
func withDevices(t *testing.T) *process {
	t.Helper()
	source := startProcess(t, shortdir.Make(t))
	if err := os.WriteFile(source.path("disk.raw"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	source.ok("PUT", "/drives/data", object{"drive_id": "data", "is_root_device": false, "path_on_host": "disk.raw"})
	source.ok("PUT", "/vsock", object{"guest_cid": 3, "uds_path": "v.sock"})
	source.ok("PUT", "/network-interfaces/eth0", object{"iface_id": "eth0", "host_dev_name": "tap0"})
	source.boot(small(), nil)
	source.pause()
	source.snapshot("Full", "full")
	source.resume()
	return source
}

// TestRelativePathsAreTheForks: a fork opens its own disk and makes its own
// socket, in its own directory, while the source runs on.
func TestRelativePathsAreTheForks(t *testing.T) {
	source := withDevices(t)
	fork := startProcess(t, shortdir.Make(t))
	if err := os.WriteFile(fork.path("disk.raw"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "File", source.path("full.mem"), object{
		"network_overrides": []object{{"iface_id": "eth0", "host_dev_name": "tap7"}},
		"clock_realtime":    true, "enable_diff_snapshots": true,
	}))
	fork.check()
	source.check()
	config := fork.ok("GET", "/vm/config", nil)
	for _, part := range []string{`"host_dev_name":"tap7"`, `"uds_path":"v.sock"`, `"path_on_host":"disk.raw"`, `"track_dirty_pages":true`} {
		if !strings.Contains(config, part) {
			t.Errorf("%s is not in %s", part, config)
		}
	}
	conn, err := net.Dial("unix", fork.path("v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	// The guest listens on no port: the host sees the connection end.
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
	_ = conn.Close()

	// Like Firecracker's, the sockets outlive the process.
	fork.kill()
	for _, name := range []string{"v.sock", "api.sock"} {
		if _, err := os.Stat(fork.path(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestMissingDeviceFailsTheLoad(t *testing.T) {
	source := withDevices(t)
	body := load(source.path("full.state"), "File", source.path("full.mem"), nil)
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"drive": {nil, "Error restoring MMIO devices: Block: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) disk.raw"},
		"vsock": {[]string{"disk.raw", "v.sock"}, "Error restoring MMIO devices: VsockUnixBackend: Error binding to the host-side Unix socket: Address already in use (os error 98)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProcess(t, shortdir.Make(t))
			for _, file := range c.files {
				if err := os.WriteFile(p.path(file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if message := p.refused("PUT", "/snapshot/load", body); !strings.Contains(message, c.want) {
				t.Error(message)
			}
			if code := p.exitCode(); code != exitError {
				t.Errorf("exit code %d", code)
			}
		})
	}
	p := startProcess(t, shortdir.Make(t))
	if err := os.WriteFile(p.path("disk.raw"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	body["vsock_override"] = object{"uds_path": "other.sock"}
	p.ok("PUT", "/snapshot/load", body)
	if _, err := os.Stat(p.path("other.sock")); err != nil {
		t.Error(err)
	}
	p.check()
}
