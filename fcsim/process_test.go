package fcsim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
)

// patience is how long a test waits for something that has to come. It bounds a
// hang and asserts nothing.
const patience = 60 * time.Second

// process is an fcsim in a directory of its own.
type process struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	reports chan guest.Report
	stderr  *bytes.Buffer
	exited  chan struct{}
	client  *http.Client
}

// startProcess starts an fcsim and waits until its socket answers.
func startProcess(t *testing.T, dir string) *process {
	t.Helper()
	p := spawn(t, dir, "--api-sock", "api.sock", "--no-seccomp", "--level", "Error")
	deadline := time.Now().Add(patience)
	for {
		if _, err := os.Stat(filepath.Join(dir, "api.sock")); err == nil {
			if _, _, err := p.try(http.MethodGet, "/", nil); err == nil {
				return p
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("fcsim does not answer: %s", p.stderr)
		}
		time.Sleep(time.Millisecond)
	}
}

func spawn(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{t: t, dir: dir, reports: make(chan guest.Report, 1000), stderr: &bytes.Buffer{}, exited: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), childVariable+"=1")
	p.cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.follow(stdout)
	p.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "api.sock"))
		},
	}}
	t.Cleanup(p.kill)
	return p
}

// follow reads the console until it ends, then reaps the process.
func (p *process) follow(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		report, is, err := guest.ParseReport(lines.Text())
		if err != nil {
			p.t.Error(err)
		}
		if is {
			p.reports <- report
		}
	}
	_ = p.cmd.Wait()
	close(p.exited)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// exitCode waits for the process to end by itself.
func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("fcsim does not exit")
		return 0
	}
}

func (p *process) try(method, path string, body any) (int, string, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	if body == nil {
		encoded = nil
	}
	request, err := http.NewRequest(method, "http://fcsim"+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, "", err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, string(answer), errors.Join(err, response.Body.Close())
}

// ok sends a request that has to succeed.
func (p *process) ok(method, path string, body any) string {
	p.t.Helper()
	status, answer, err := p.try(method, path, body)
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", method, path, err, p.stderr)
	}
	if status/100 != 2 {
		p.t.Fatalf("%s %s %v: %d %s", method, path, body, status, answer)
	}
	return answer
}

// refused sends a request that has to fail and returns its fault message.
func (p *process) refused(method, path string, body any) string {
	p.t.Helper()
	status, answer, err := p.try(method, path, body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	var fault struct {
		Message string `json:"fault_message"`
	}
	if err := json.Unmarshal([]byte(answer), &fault); err != nil || status != http.StatusBadRequest {
		p.t.Fatalf("%s %s %v: %d %s", method, path, body, status, answer)
	}
	return fault.Message
}

// object is a request's body.
type object map[string]any

// boot configures and starts a guest and waits until it is ready.
func (p *process) boot(w guest.Workload, machine object) {
	p.t.Helper()
	config := object{"vcpu_count": 2, "mem_size_mib": 64}
	for name, value := range machine {
		config[name] = value
	}
	if err := os.WriteFile(filepath.Join(p.dir, "kernel"), nil, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.ok("PUT", "/machine-config", config)
	p.ok("PUT", "/boot-source", object{"kernel_image_path": "kernel", "boot_args": "quiet " + w.BootArgs()})
	p.ok("PUT", "/actions", object{"action_type": "InstanceStart"})
	p.report(guest.Ready)
}

// report waits for the next report, which has to be of the given kind.
func (p *process) report(kind guest.Kind) guest.Report {
	p.t.Helper()
	select {
	case r := <-p.reports:
		if r.Kind != kind {
			p.t.Fatalf("report %v instead of %s", r, kind)
		}
		return r
	case <-p.exited:
		p.t.Fatalf("fcsim ended (%v) instead of reporting %s: %s", p.cmd.ProcessState, kind, p.stderr)
	case <-time.After(patience):
		p.t.Fatalf("no report %s", kind)
	}
	return guest.Report{}
}

func (p *process) command(command byte) {
	p.t.Helper()
	if _, err := p.stdin.Write([]byte{command}); err != nil {
		p.t.Fatal(err)
	}
}

// check lets the guest check itself, which has to find nothing wrong.
func (p *process) check() guest.Report {
	p.t.Helper()
	p.command(guest.CommandCheck)
	r := p.report(guest.Check)
	if r.Bad != 0 {
		p.t.Fatalf("the guest found wrong pages: %v", r)
	}
	return r
}

func (p *process) write() guest.Report {
	p.t.Helper()
	p.command(guest.CommandWrite)
	return p.report(guest.Write)
}

func (p *process) pause()  { p.t.Helper(); p.ok("PATCH", "/vm", object{"state": "Paused"}) }
func (p *process) resume() { p.t.Helper(); p.ok("PATCH", "/vm", object{"state": "Resumed"}) }

// snapshot captures into <name>.state and <name>.mem.
func (p *process) snapshot(kind, name string) {
	p.t.Helper()
	p.ok("PUT", "/snapshot/create", object{"snapshot_type": kind, "snapshot_path": name + ".state", "mem_file_path": name + ".mem"})
}

// load is the body of a load that resumes.
func load(state, backend, path string, extra object) object {
	body := object{"snapshot_path": state, "mem_backend": object{"backend_type": backend, "backend_path": path}, "resume_vm": true}
	for name, value := range extra {
		body[name] = value
	}
	return body
}

// state is what GET / reports.
func (p *process) state() string {
	p.t.Helper()
	var info instanceInfo
	if err := json.Unmarshal([]byte(p.ok("GET", "/", nil)), &info); err != nil {
		p.t.Fatal(err)
	}
	return string(info.State)
}

// blocks is how many bytes of a file are allocated.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func (p *process) path(name string) string { return filepath.Join(p.dir, name) }

func (p *process) String() string { return fmt.Sprintf("fcsim in %s", p.dir) }
