package fcsim

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// testMachine is a machine in this process behind a unix socket. Guests without
// a userfaultfd may live here: their faults are the kernel's to serve.
type testMachine struct {
	t       *testing.T
	machine *machine
	client  *http.Client
}

func newTestMachine(t *testing.T) *testMachine {
	t.Helper()
	t.Chdir(shortdir.Make(t))
	for _, name := range []string{"kernel", "disk", "other"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target := &logTarget{out: io.Discard, level: slog.LevelInfo}
	m := newMachine("test", slog.New(&logHandler{target: target, id: "test"}), target, strings.NewReader(""), io.Discard)
	listener, err := listenUnix("api.sock")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(&api{machine: m, maxPayload: maxPayload})
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(func() { server.Close(); m.close() })
	socket, err := filepath.Abs("api.sock")
	if err != nil {
		t.Fatal(err)
	}
	return &testMachine{t: t, machine: m, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// do sends a request with a literal body and returns status and answer.
func (m *testMachine) do(method, path, body string) (int, string) {
	m.t.Helper()
	request, err := http.NewRequest(method, "http://fcsim"+path, bytes.NewBufferString(body))
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := m.client.Do(request)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

func (m *testMachine) expect(method, path, body string, status int, part string) {
	m.t.Helper()
	got, answer := m.do(method, path, body)
	if got != status || !strings.Contains(answer, part) {
		m.t.Errorf("%s %s %s\ngives %d %s\nwant %d …%s…", method, path, shorten(body), got, answer, status, part)
	}
	if got == http.StatusBadRequest {
		var fault map[string]string
		if err := json.Unmarshal([]byte(answer), &fault); err != nil || len(fault) != 1 || fault["fault_message"] == "" {
			m.t.Errorf("%s %s: %q is not a fault message", method, path, answer)
		}
	}
}

func (m *testMachine) start() {
	m.t.Helper()
	m.expect("PUT", "/boot-source", `{"kernel_image_path":"kernel"}`, 204, "")
	m.expect("PUT", "/actions", `{"action_type":"InstanceStart"}`, 204, "")
}

// The texts below were taken from answers of Firecracker 1.16.1.
func TestRequestsBeforeTheStart(t *testing.T) {
	m := newTestMachine(t)
	const preboot = "The requested operation is not supported before starting the microVM."
	const body = "An error occurred when deserializing the json body of a request: "
	for _, c := range []struct {
		method, path, body string
		status             int
		part               string
	}{
		{"GET", "/", "", 200, `{"id":"test","state":"Not started","vmm_version":"1.16.0","app_name":"fcsim"}`},
		{"GET", "/version", "", 200, `{"firecracker_version":"1.16.0"}`},
		{"GET", "/nonsense", "", 400, "Invalid request method and/or path: GET nonsense."},
		{"GET", "/vm", "", 400, "Invalid request method and/or path: GET vm."},
		{"DELETE", "/drives/a", "", 400, "Invalid request method and/or path: DELETE drives."},
		{"GET", "/machine-config", "{}", 400, "GET request cannot have a body."},
		{"GET", "/machine-config", "", 200, `{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`},
		{"PUT", "/machine-config", "", 400, "Empty PUT request."},
		{"PUT", "/machine-config", "{", 400, body + "EOF while parsing an object"},
		{"PUT", "/machine-config", "[]", 400, body + "invalid type"},
		{"PUT", "/machine-config", "{}", 400, body + "missing field `vcpu_count`"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"x":1}`, 400, body + "unknown field `x`, expected one of `vcpu_count`, `mem_size_mib`, `smt`, `cpu_template`, `track_dirty_pages`, `huge_pages`"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"VCPU_COUNT":1}`, 400, "unknown field `VCPU_COUNT`"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"vcpu_count":1}`, 400, "duplicate field `vcpu_count`"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}{}`, 400, "trailing characters"},
		{"PUT", "/machine-config", `{"vcpu_count":256,"mem_size_mib":128}`, 400, "expected u8"},
		{"PUT", "/machine-config", `{"vcpu_count":null,"mem_size_mib":128}`, 400, "invalid type: null, expected u8"},
		{"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`, 400, "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled."},
		{"PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`, 400, "Machine config error: The number of vCPUs"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":129,"huge_pages":"2M"}`, 400, "Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size."},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"1G"}`, 400, body + "unknown variant `1G`, expected `None` or `2M`"},
		{"PATCH", "/machine-config", "{}", 400, "Empty PATCH request."},
		{"PATCH", "/machine-config", `{"mem_size_mib":256}`, 204, ""},
		{"GET", "/machine-config", "", 200, `"mem_size_mib":256`},
		{"PUT", "/boot-source", `{"kernel_image_path":"nope"}`, 400, "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)"},
		{"PUT", "/boot-source", `{"kernel_image_path":"kernel","initrd_path":"nope"}`, 400, "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)"},
		{"PUT", "/drives", "{}", 400, "The ID cannot be empty."},
		{"PUT", "/drives/a-b", "{}", 400, "API Resource IDs can only contain alphanumeric characters and underscores."},
		{"PUT", "/drives/a", `{"drive_id":"b","is_root_device":false,"path_on_host":"disk"}`, 400, "The id from the path does not match the id from the body!"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"nope"}`, 400, "Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) nope"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false}`, 400, "Invalid block config."},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"path_on_host":"disk"}`, 204, ""},
		{"PUT", "/drives/b", `{"drive_id":"b","is_root_device":true,"path_on_host":"disk"}`, 400, "Drive config error: A root block device already exists!"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"f","host_dev_name":"x"}`, 400, "The id from the path [e] does not match the id from the body [f]!"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"nosuchtapXXXXXXXX"}`, 400, "Network config error: Could not create the network device: Open tap device failed: Invalid interface name"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"x","guest_mac":"zz"}`, 400, "The provided MAC address is invalid."},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"x","guest_mac":"06:00:00:00:00:01"}`, 204, ""},
		{"PUT", "/network-interfaces/f", `{"iface_id":"f","host_dev_name":"y","guest_mac":"06:00:00:00:00:01"}`, 400, "Network config error: The MAC address is already in use: 06:00:00:00:00:01"},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`, 204, ""},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`, 204, ""},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"disk"}`, 400, "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: Address already in use (os error 98)"},
		{"GET", "/balloon", "", 400, "Balloon config error: No balloon device found."},
		{"PUT", "/balloon", `{"amount_mib":1024,"deflate_on_oom":true}`, 400, "Balloon config error: Amount of pages requested is too large."},
		{"PUT", "/balloon", `{"amount_mib":100,"deflate_on_oom":false}`, 204, ""},
		{"GET", "/balloon", "", 200, `{"amount_mib":100,"deflate_on_oom":false,"stats_polling_interval_s":0,"free_page_hinting":false,"free_page_reporting":false}`},
		{"PATCH", "/machine-config", `{"mem_size_mib":64}`, 400, "Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size."},
		{"PATCH", "/balloon", `{"amount_mib":1}`, 400, preboot},
		{"GET", "/balloon/statistics", "", 400, preboot},
		{"GET", "/balloon/x", "", 400, "Unrecognized GET request path `x`."},
		{"PUT", "/actions", `{"action_type":"X"}`, 400, body + "unknown variant `X`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`"},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 400, preboot},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 400, "Start microvm error: Cannot start microvm without kernel configuration."},
		{"PATCH", "/vm", `{"state":"Paused"}`, 400, preboot},
		{"PATCH", "/vm", `{"state":"Resumed"}`, 400, preboot},
		{"PATCH", "/vm", `{"state":"X"}`, 400, body + "unknown variant `X`, expected `Paused` or `Resumed`"},
		{"PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"disk"}`, 400, preboot},
		{"PUT", "/snapshot", "{}", 400, "Missing snapshot operation type."},
		{"PUT", "/snapshot/x", "{}", 400, "Invalid request method and/or path: PUT /snapshot/x."},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a"}`, 400, body + "missing field `mem_file_path`"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"b","snapshot_type":"X"}`, 400, body + "unknown variant `X`, expected `Diff` or `Full`"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"b"}`, 400, preboot},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a"}`, 400, body + "missing field: either `mem_backend` or `mem_file_path` is required"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_file_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"}}`, 400, body + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"X","backend_path":"b"}}`, 400, body + "unknown variant `X`, expected `File` or `Uffd`"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b","x":1}}`, 400, body + "unknown field `x`"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"},"huge_pages":"2M"}`, 400, body + "unknown field `huge_pages`, expected one of `snapshot_path`, `mem_file_path`, `mem_backend`, `enable_diff_snapshots`, `track_dirty_pages`, `resume_vm`, `network_overrides`, `vsock_override`, `clock_realtime`"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"}}`, 400, "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."},
		{"PUT", "/logger", "{}", 204, ""},
		{"PUT", "/logger", `{"level":"Foo"}`, 400, body},
		{"PUT", "/logger", `{"log_path":"nope/x"}`, 400, "Logger error: Failed to open target file: No such file or directory (os error 2)"},
		{"PUT", "/metrics", "{}", 400, body + "missing field `metrics_path`"},
		{"PUT", "/metrics", `{"metrics_path":"m.json"}`, 204, ""},
		{"PUT", "/metrics", `{"metrics_path":"m.json"}`, 400, "Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed."},
		{"PUT", "/logger", strings.Repeat(" ", maxPayload+1), 400, "larger than the limit"},
		{"PUT", "/boot-source", `{"kernel_image_path":"kernel","boot_args":"faultline.pages=1000000"}`, 204, ""},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 400, "Start microvm error: workload in boot_args: the workload ends"},
	} {
		m.expect(c.method, c.path, c.body, c.status, c.part)
	}
}

func TestRequestsAfterTheStart(t *testing.T) {
	m := newTestMachine(t)
	m.expect("PUT", "/drives/d", `{"drive_id":"d","is_root_device":false,"path_on_host":"disk"}`, 204, "")
	m.expect("PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":false,"stats_polling_interval_s":1}`, 204, "")
	m.expect("PUT", "/metrics", `{"metrics_path":"m.json"}`, 204, "")
	m.start()
	const postboot = "The requested operation is not supported after starting the microVM."
	for _, c := range []struct {
		method, path, body string
		status             int
		part               string
	}{
		{"GET", "/", "", 200, `"state":"Running"`},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 400, postboot},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, 400, postboot},
		{"PUT", "/boot-source", `{"kernel_image_path":"nope"}`, 400, postboot},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`, 400, postboot},
		{"PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":false}`, 400, postboot},
		{"PUT", "/logger", "{}", 400, postboot},
		{"PUT", "/metrics", `{"metrics_path":"n.json"}`, 400, postboot},
		{"PUT", "/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"}}`, 400, postboot},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"disk"}`, 400, "PCI is not enabled"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"x"}`, 400, "PCI is not enabled"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"b"}`, 400, "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running"},
		{"PATCH", "/drives/x", `{"drive_id":"x","path_on_host":"disk"}`, 400, "Drive config error: Unable to patch the block device: Failed perform action on device: Device not found Please verify the request arguments."},
		{"PATCH", "/drives/d", `{"drive_id":"d","path_on_host":"nope"}`, 400, "Drive config error: Unable to patch the block device: Block: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) nope Please verify the request arguments."},
		{"PATCH", "/drives/d", `{"drive_id":"d"}`, 400, "Running method expected different backend."},
		{"PATCH", "/drives/d", `{"drive_id":"d","path_on_host":"other"}`, 204, ""},
		{"PATCH", "/network-interfaces/x", `{"iface_id":"x"}`, 400, "Network config error: Unable to update the net device: Failed perform action on device: Device not found"},
		{"PATCH", "/vm", `{"state":"Resumed"}`, 204, ""},
		{"PATCH", "/vm", `{"state":"Paused"}`, 204, ""},
		{"PATCH", "/vm", `{"state":"Paused"}`, 204, ""},
		{"GET", "/", "", 200, `"state":"Paused"`},
		{"PUT", "/snapshot/create", `{"snapshot_path":"nodir/a","mem_file_path":"b"}`, 400, "Create snapshot error: Cannot perform open on the snapshot backing file: No such file or directory (os error 2)"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"nodir/b"}`, 400, "Create snapshot error: Cannot perform open on the memory backing file: No such file or directory (os error 2)"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"."}`, 400, "Create snapshot error: Cannot perform open on the memory backing file: Is a directory (os error 21)"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"/dev/full","mem_file_path":"b"}`, 400, "Create snapshot error: Cannot serialize the microVM state: IO Error: No space left on device (os error 28)"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"a","mem_file_path":"b"}`, 204, ""},
		{"PATCH", "/balloon", `{"amount_mib":129}`, 400, "Balloon update error: Balloon: Requested memory should be less than 129MiB"},
		{"PATCH", "/balloon", `{"amount_mib":1}`, 204, ""},
		{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`, 400, "Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation."},
		{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`, 204, ""},
		{"GET", "/balloon", "", 200, `"stats_polling_interval_s":2`},
		{"GET", "/balloon/statistics", "", 200, `"target_pages":256,"actual_pages":0`},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 204, ""},
		{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, 204, ""},
		{"GET", "/vm/config", "", 200, `"path_on_host":"other"`},
	} {
		m.expect(c.method, c.path, c.body, c.status, c.part)
	}
	var line struct {
		Latencies map[string]uint64 `json:"latencies_us"`
	}
	data, err := os.ReadFile("m.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &line); err != nil || line.Latencies["full_create_snapshot"] == 0 {
		t.Errorf("metrics %s: %v", data, err)
	}
}

// TestFullConfig compares with the answer of Firecracker 1.16.1 to the same
// configuration.
func TestFullConfig(t *testing.T) {
	m := newTestMachine(t)
	m.expect("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"cpu_template":"T2"}`, 204, "")
	m.expect("PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"path_on_host":"disk"}`, 204, "")
	m.expect("PUT", "/vsock", `{"guest_cid":2,"uds_path":"w.sock"}`, 204, "")
	m.expect("GET", "/vm/config", "", 200, `{"balloon":null,"drives":[{"drive_id":"a","partuuid":null,"is_root_device":true,"cache_type":"Unsafe","is_read_only":false,"path_on_host":"disk","rate_limiter":null,"io_engine":"Sync","socket":null}],"boot-source":{"kernel_image_path":"","initrd_path":null,"boot_args":null},"cpu-config":null,"logger":null,"machine-config":{"vcpu_count":1,"mem_size_mib":256,"smt":false,"cpu_template":"T2","track_dirty_pages":false,"huge_pages":"None"},"metrics":null,"mmds-config":null,"network-interfaces":[],"vsock":{"guest_cid":2,"uds_path":"w.sock"},"entropy":null,"pmem":[],"memory-hotplug":null}`)
}

// TestPauseGivesUp: a vCPU that does not come out of guest memory costs the pause
// its patience, and the machine goes on when it comes out.
func TestPauseGivesUp(t *testing.T) {
	m := newTestMachine(t)
	m.start()
	waitFor(t, "the fill", func() bool { return m.machine.cpus.saved().Phase == idle })
	m.machine.patience = 10 * time.Millisecond
	c := m.machine.cpus
	c.mu.Lock()
	c.inside++
	c.mu.Unlock()
	m.expect("PATCH", "/vm", `{"state":"Paused"}`, 400, "Internal VMM error: Failed to message the vCPUs.")
	m.expect("GET", "/", "", 200, `"state":"Running"`)
	c.mu.Lock()
	c.inside--
	c.mu.Unlock()
	m.expect("PATCH", "/vm", `{"state":"Paused"}`, 204, "")
	m.expect("PATCH", "/vm", `{"state":"Resumed"}`, 204, "")
}

func TestDeprecatedMembersAreMarked(t *testing.T) {
	m := newTestMachine(t)
	response, err := m.client.Do(httptestRequest(t, "PUT", "/vsock", `{"vsock_id":"v","guest_cid":3,"uds_path":"v.sock"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.Header.Get("Deprecation") != "true" {
		t.Errorf("headers %v", response.Header)
	}
}

func httptestRequest(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	request, err := http.NewRequest(method, "http://fcsim"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// FuzzDecodeBodies: no body crashes the decoders of the API.
func FuzzDecodeBodies(f *testing.F) {
	f.Add([]byte(`{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"},"network_overrides":[{"iface_id":"a","host_dev_name":"b","x":1}],"vsock_override":{"uds_path":"v"}}`))
	f.Add([]byte(`{"drive_id":"a","is_root_device":false,"rate_limiter":{"ops":null}}`))
	f.Add([]byte(`{"vcpu_count":1,"mem_size_mib":18446744073709551615,"cpu_template":null}`))
	f.Add([]byte(`{"amount_mib":-1`))
	f.Add([]byte(`{"a":{"b":[1,2,{"c":"\ud800"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := defaultMachine()
		if decode(body, c.members(required)...) == nil && c.validate() == nil && (c.VCPUs == 0 || c.MemSizeMiB == 0 || c.MemSizeMiB > maxMemoryMiB) {
			t.Errorf("accepted %+v", c)
		}
		_ = decode(body, (&bootSource{}).members()...)
		_ = decode(body, (&driveConfig{}).members()...)
		_ = decode(body, (&netConfig{}).members()...)
		_ = decode(body, (&vsockConfig{}).members()...)
		_ = decode(body, (&balloonConfig{}).members()...)
		_ = decode(body, (&snapshotConfig{}).members()...)
		if load, err := decodeLoad(body); err == nil && load.backendType != backendFile && load.backendType != backendUffd {
			t.Errorf("accepted backend %q", load.backendType)
		}
	})
}

// TestWorkloadArguments: the guest runs what boot_args say.
func TestWorkloadArguments(t *testing.T) {
	w := guest.Default(10)
	w.Free, w.Rate = 3, 5
	args := "console=ttyS0 " + w.BootArgs()
	got, err := parseWorkload(bootSource{BootArgs: &args}, 64<<20)
	if err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseWorkload(bootSource{BootArgs: &args}, guest.BaseAddress); err == nil {
		t.Error("a workload that does not fit was accepted")
	}
}
