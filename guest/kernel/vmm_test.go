package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// patience bounds every wait for a VMM, so that a hang fails with its console
// instead of blocking the test. It is no measure of speed.
const patience = 2 * time.Minute

// vmm is a Firecracker process of a test.
type vmm struct {
	t       *testing.T
	stdin   io.Writer
	api     http.Client
	reports chan guest.Report

	mu      sync.Mutex
	console bytes.Buffer // everything that was said; protected by mu
}

// startFirecracker starts the real Firecracker, or skips the test where it
// cannot run.
func startFirecracker(t *testing.T) *vmm {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the freestanding guest is an x86-64 program; run this test on an x86-64 host")
	}
	binary, err := exec.LookPath("firecracker")
	if err != nil {
		t.Skip("no firecracker on PATH; install one to test the guest on it")
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("%v; make /dev/kvm accessible to test the guest on Firecracker", err)
	}
	kvm.Close()

	dir := shortdir.Make(t)
	v := &vmm{t: t, reports: make(chan guest.Report, 100)}
	socket := filepath.Join(dir, "api.sock")
	// Firecracker's system call filter is no subject of these tests, and kernels
	// that emulate KVM need calls that it does not know.
	// Its log has a file of its own: on stdout it would get between the bytes of a
	// report, which the guest writes one by one.
	process := exec.Command(binary, "--no-seccomp", "--api-sock", socket, "--log-path", filepath.Join(dir, "vmm.log"))
	process.Dir = dir
	stdin, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	process.Stderr = process.Stdout
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	v.stdin = stdin
	v.api.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	ended, followed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(followed)
		v.follow(stdout, ended)
	}()
	t.Cleanup(func() {
		close(ended)
		v.api.CloseIdleConnections()
		_ = process.Process.Kill() // it may be gone already
		<-followed
		_ = process.Wait() // ended by the signal
		if t.Failed() {
			v.mu.Lock()
			defer v.mu.Unlock()
			t.Logf("console:\n%s", v.console.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("firecracker does not serve its API: %v", err)
		}
	}
}

// follow delivers the reports on the console until it closes; once the test has
// ended nobody takes them any more.
func (v *vmm) follow(stdout io.Reader, ended <-chan struct{}) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		v.mu.Lock()
		v.console.Write(append(lines.Bytes(), '\n'))
		v.mu.Unlock()
		r, ok, err := guest.ParseReport(lines.Text())
		select {
		case <-ended: // the VMM was killed, perhaps in the middle of a line
			continue
		default:
		}
		if err != nil {
			v.t.Error(err)
		}
		if ok {
			select {
			case v.reports <- r:
			case <-ended:
			}
		}
	}
}

// call makes an API request that must succeed.
func (v *vmm) call(method, path string, body map[string]any) {
	v.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		v.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://firecracker"+path, bytes.NewReader(encoded))
	if err != nil {
		v.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := v.api.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err := io.ReadAll(response.Body); err != nil || response.StatusCode >= 300 {
		v.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, answer, err)
	}
}

// next returns the next report.
func (v *vmm) next() guest.Report {
	v.t.Helper()
	select {
	case r := <-v.reports:
		return r
	case <-time.After(patience):
		v.t.Fatal("the guest says nothing")
	}
	return guest.Report{}
}

// report returns the next report, which must be of the given kind.
func (v *vmm) report(kind guest.Kind) guest.Report {
	v.t.Helper()
	r := v.next()
	if r.Kind != kind {
		v.t.Fatalf("got %v, want %s", r, kind)
	}
	return r
}

// command sends a command and returns its answer.
func (v *vmm) command(command byte, answer guest.Kind) guest.Report {
	v.t.Helper()
	if _, err := v.stdin.Write([]byte{command}); err != nil {
		v.t.Fatal(err)
	}
	return v.report(answer)
}

// boot starts a guest and returns its ready report.
func (v *vmm) boot(w guest.Workload, mib uint64, opts Options) guest.Report {
	v.t.Helper()
	image, err := Build(w, mib<<20, opts)
	if err != nil {
		v.t.Fatal(err)
	}
	path := filepath.Join(v.t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.call("PUT", "/machine-config", map[string]any{"vcpu_count": 1, "mem_size_mib": mib, "track_dirty_pages": true})
	v.call("PUT", "/boot-source", map[string]any{"kernel_image_path": path})
	v.call("PUT", "/actions", map[string]any{"action_type": "InstanceStart"})
	return v.report(guest.Ready)
}

func (v *vmm) pause() { v.t.Helper(); v.call("PATCH", "/vm", map[string]any{"state": "Paused"}) }

func (v *vmm) capture(kind, state, memory string) {
	v.t.Helper()
	v.call("PUT", "/snapshot/create", map[string]any{"snapshot_type": kind, "snapshot_path": state, "mem_file_path": memory})
}

func (v *vmm) restore(state, memory string) {
	v.t.Helper()
	v.call("PUT", "/snapshot/load", map[string]any{
		"snapshot_path": state, "resume_vm": true, "track_dirty_pages": true,
		"mem_backend": map[string]any{"backend_type": "File", "backend_path": memory},
	})
}
