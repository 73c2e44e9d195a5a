package firecracker

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/hypervisor"
)

func version(minor int) Binary {
	return Binary{Path: "fc", Name: Real, Version: Version{Major: 1, Minor: minor}}
}

// Each version gets the fields that it knows, and an error for the others.
func TestLoadRequestByVersion(t *testing.T) {
	base := hypervisor.RestoreSpec{
		Process: hypervisor.Process{Dir: "d"}, StatePath: "s", Memory: hypervisor.Memory{Backend: hypervisor.Uffd, Path: "p"},
	}
	const start = `{"snapshot_path":"s","mem_backend":{"backend_type":"Uffd","backend_path":"p"}`
	with := func(change func(*hypervisor.RestoreSpec)) hypervisor.RestoreSpec {
		spec := base
		change(&spec)
		return spec
	}
	track := with(func(s *hypervisor.RestoreSpec) { s.TrackDirtyPages, s.Resume = true, true })
	taps := with(func(s *hypervisor.RestoreSpec) {
		s.NetworkOverrides = []hypervisor.NetworkOverride{{ID: "eth0", Tap: "tap7"}}
	})
	vsock := with(func(s *hypervisor.RestoreSpec) { s.VsockOverride = "v" })
	clock := with(func(s *hypervisor.RestoreSpec) { s.ClockRealtime = true })
	for _, c := range []struct {
		name   string
		binary Binary
		spec   hypervisor.RestoreSpec
		want   string // the body, or the feature that is missing
	}{
		{"oldest", version(1), base, start + `}`},
		{"too old", version(0), base, "mem_backend needs firecracker v1.1.0"},
		{"tracking before 1.13", version(12), track, start + `,"resume_vm":true,"enable_diff_snapshots":true}`},
		{"tracking", version(13), track, start + `,"resume_vm":true,"track_dirty_pages":true}`},
		{"taps", version(12), taps, start + `,"network_overrides":[{"iface_id":"eth0","host_dev_name":"tap7"}]}`},
		{"taps before 1.12", version(11), taps, "network_overrides needs firecracker v1.12.0"},
		{"vsock", version(16), vsock, start + `,"vsock_override":{"uds_path":"v"}}`},
		{"vsock before 1.16", version(15), vsock, "vsock_override needs firecracker v1.16.0"},
		{"clock", version(16), clock, start + `,"clock_realtime":true}`},
		{"clock before 1.16", version(15), clock, "clock_realtime needs firecracker v1.16.0"},
		{"simulator", Binary{Name: Simulator}, vsock, start + `,"vsock_override":{"uds_path":"v"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			load, err := loadRequest(c.binary, c.spec)
			if err != nil {
				var unsupported *UnsupportedError
				if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.binary.Version.String()) {
					t.Fatalf("error %v, want %s, and the version that is there", err, c.want)
				}
				return
			}
			body, err := json.Marshal(load)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBootNeedsByVersion(t *testing.T) {
	spec := hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: t.TempDir()}, Kernel: "k", VCPUs: 1, MemoryMiB: 64,
		HugePages: hypervisor.Huge2M, Balloon: &hypervisor.Balloon{Reporting: true},
	}
	for minor, want := range map[int]Feature{6: HugePages, 7: FreePageReport, 13: FreePageReport} {
		_, err := New(Config{Binary: version(minor)}).Boot(t.Context(), spec)
		var unsupported *UnsupportedError
		if !errors.As(err, &unsupported) || unsupported.Feature != want {
			t.Errorf("1.%d: error %v, want one about %s", minor, err, want)
		}
	}
	if err := version(14).Require(bootFeatures(spec)...); err != nil {
		t.Errorf("1.14: %v", err)
	}
}
