package contract

import (
	"net/http"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

type object = map[string]any

// fresh starts a VMM without configuring it.
func (s suite) fresh(t *testing.T) *firecracker.VMM {
	t.Helper()
	v, err := firecracker.Start(within(t), firecracker.Options{Binary: s.target.Binary, Dir: shortdir.Make(t), DieWithParent: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Kill(within(t)); err != nil {
			t.Error(err)
		}
	})
	return v
}

func (s suite) testAPI(t *testing.T) {
	t.Run("BeforeBoot", s.testBeforeBoot)
	t.Run("AfterBoot", s.testAfterBoot)
}

func (s suite) testBeforeBoot(t *testing.T) {
	v := s.fresh(t)
	ctx, api := within(t), v.API()

	info, err := api.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.State != string(hypervisor.NotStarted) || info.ID == "" || info.AppName == "" {
		t.Errorf("GET / of a fresh VMM: %+v", info)
	}
	version, err := api.Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if "v"+version != s.target.Binary.Version.String() || info.VMMVersion != version {
		t.Errorf("GET /version %q, GET / %q, --version %s", version, info.VMMVersion, s.target.Binary.Version)
	}

	refused := []struct {
		method, path string
		body         any
	}{
		{http.MethodGet, "/nowhere", nil},
		{http.MethodPut, "/nowhere", object{}},
		{http.MethodPut, "/actions", nil},
		{http.MethodPut, "/actions", "not an object"},
		{http.MethodPut, "/actions", object{}},
		{http.MethodPut, "/actions", object{"action_type": "Dance"}},
		{http.MethodPut, "/actions", object{"action_type": "InstanceStart"}}, // no boot source
		{http.MethodPut, "/actions", object{"action_type": "FlushMetrics"}},
		{http.MethodGet, "/balloon", nil},
		{http.MethodGet, "/balloon/statistics", nil},
		{http.MethodPatch, "/balloon", object{"amount_mib": 1}},
		{http.MethodPatch, "/vm", object{"state": "Paused"}},
		{http.MethodPatch, "/vm", object{"state": "Resumed"}},
		{http.MethodPatch, "/vm", object{"state": "Confused"}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 1, "mem_size_mib": 64, "unknown": 1}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 0, "mem_size_mib": 64}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 33, "mem_size_mib": 64}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 1, "mem_size_mib": 0}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 1}},
		{http.MethodPut, "/machine-config", object{"vcpu_count": 1, "mem_size_mib": 63, "huge_pages": "2M"}},
		{http.MethodPut, "/boot-source", object{"kernel_image_path": "missing"}},
		{http.MethodPut, "/boot-source", object{"kernel_image_path": "firecracker.log", "unknown": 1}},
		{http.MethodPut, "/drives/a", object{"drive_id": "a", "is_root_device": false, "is_read_only": false, "path_on_host": "missing"}},
		{http.MethodPut, "/drives/a", object{"drive_id": "b", "is_root_device": false, "is_read_only": false, "path_on_host": "firecracker.log"}},
		{http.MethodPut, "/vsock", object{"guest_cid": 3}},
		{http.MethodPut, "/balloon", object{"amount_mib": 1, "deflate_on_oom": false, "unknown": 1}},
		{http.MethodPut, "/snapshot/create", object{"snapshot_path": "s", "mem_file_path": "m"}},
		{http.MethodPut, "/snapshot/create", object{"snapshot_path": "s"}},
		{http.MethodPut, "/snapshot/nothing", object{}},
		{http.MethodPut, "/snapshot/load", object{"snapshot_path": "s"}},
		{http.MethodPut, "/snapshot/load", object{"snapshot_path": "s", "mem_file_path": "m", "mem_backend": object{"backend_type": "File", "backend_path": "m"}}},
		{http.MethodPut, "/snapshot/load", object{"snapshot_path": "s", "mem_backend": object{"backend_type": "Tape", "backend_path": "m"}}},
		{http.MethodPut, "/snapshot/load", object{"snapshot_path": "s", "mem_backend": object{"backend_type": "File", "backend_path": "m", "unknown": 1}}},
		{http.MethodPut, "/snapshot/load", object{"snapshot_path": "s", "mem_backend": object{"backend_type": "File", "backend_path": "m"}, "unknown": 1}},
	}
	for _, r := range refused {
		requireRefused(t, r.method+" "+r.path, api.Do(ctx, r.method, r.path, r.body, nil))
	}

	config := firecracker.MachineConfig{VCPUCount: 2, MemSizeMiB: 96, TrackDirtyPages: true}
	if err := api.SetMachineConfig(ctx, config); err != nil {
		t.Fatal(err)
	}
	got, err := api.MachineConfig(ctx)
	config.HugePages = "None"
	if err != nil || got != config {
		t.Errorf("machine config %+v, error %v; want %+v", got, err, config)
	}

	// Of all the refused requests none has hurt the VMM; and once something has
	// been configured, a load is refused without ending it.
	load := firecracker.SnapshotLoad{SnapshotPath: "missing", MemBackend: firecracker.MemoryBackend{BackendType: "File", BackendPath: "missing"}}
	requireRefused(t, "load after configuration", api.LoadSnapshot(ctx, load))
	if info, err := api.Info(ctx); err != nil || info.State != string(hypervisor.NotStarted) {
		t.Errorf("after refused requests: %+v, error %v", info, err)
	}
}

func (s suite) testAfterBoot(t *testing.T) {
	m := s.boot(t, workload(), nil)
	ctx, api := within(t), m.API()
	m.requireState(hypervisor.Running)

	requireRefused(t, "second InstanceStart", api.StartInstance(ctx))
	requireRefused(t, "machine config of a running microVM", api.SetMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: memoryMiB}))
	requireRefused(t, "boot source of a running microVM", api.SetBootSource(ctx, firecracker.BootSource{KernelImagePath: "firecracker.log"}))
	requireRefused(t, "balloon of a microVM without", api.UpdateBalloon(ctx, 1))
	requireRefused(t, "snapshot of a running microVM", m.Snapshot(ctx, hypervisor.SnapshotSpec{Kind: hypervisor.Full, StatePath: "s", MemoryPath: "m"}))
	requireRefused(t, "load into a running microVM", api.LoadSnapshot(ctx, firecracker.SnapshotLoad{
		SnapshotPath: "s", MemBackend: firecracker.MemoryBackend{BackendType: "File", BackendPath: "m"},
	}))
	m.requireState(hypervisor.Running)

	for range 2 {
		m.pause()
		m.requireState(hypervisor.Paused)
	}
	// A paused guest obeys nothing; what was typed is not lost.
	m.send(guestPing)
	m.requireSilence()
	requireRefused(t, "unknown kind of snapshot", api.Do(ctx, http.MethodPut, "/snapshot/create",
		object{"snapshot_type": "Half", "snapshot_path": "s", "mem_file_path": "m"}, nil))
	requireRefused(t, "snapshot into a missing directory", m.Snapshot(ctx, hypervisor.SnapshotSpec{Kind: hypervisor.Full, StatePath: "missing/s", MemoryPath: "m"}))
	for range 2 {
		m.resume()
		m.requireState(hypervisor.Running)
	}
	m.expectPong()
	m.check()
}
