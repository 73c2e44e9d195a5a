package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/daemon/daemontest"
)

// withDaemon runs a daemon that can do everything for which no VMM is needed, and
// returns its data directory, which the environment names.
func withDaemon(t *testing.T) string {
	t.Helper()
	cfg := daemontest.Config(t)
	end := daemontest.Start(t, cfg)
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(envDataDir, cfg.Instances.DataDir)
	t.Setenv(envSocket, "")
	return cfg.Instances.DataDir
}

// must runs a command that has to succeed and returns its output. Warnings are the
// filesystem's.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := faultline(args...)
	if code != exitOK || strings.Count(stderr, "\n") != strings.Count(stderr, "faultline: warning: ") {
		t.Fatalf("%q: code %d, output %q, errors %q", args, code, out, stderr)
	}
	return out
}

func TestInstances(t *testing.T) {
	data := withDaemon(t)
	kernel := filepath.Join(filepath.Dir(data), "kernel")
	if err := os.WriteFile(kernel, []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "ps"); !strings.HasPrefix(out, "NAME") || strings.Count(out, "\n") != 1 {
		t.Errorf("an empty ps: %q", out)
	}
	var made instance.Instance
	out := must(t, "create", "web", "--kernel", kernel, "--mem", "64MiB", "--vcpus", "2", "--boot-args", "a b", "--vsock-cid", "3",
		"--drive", "data="+kernel+",ro", "--drive", "root="+kernel+",root", "--json")
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	want := instance.Spec{Kernel: kernel, BootArgs: "a b", VCPUs: 2, MemoryBytes: 64 << 20, VsockCID: 3,
		Drives: []instance.Drive{{ID: "data", Source: kernel, ReadOnly: true}, {ID: "root", Source: kernel, Root: true}}}
	if diff := cmp.Diff(want, made.Spec); diff != "" || made.Name != "web" || made.State != instance.Stopped {
		t.Errorf("%+v: %s", made, diff)
	}
	must(t, "create", "db", "--kernel", kernel)
	if out := must(t, "ps", "-q"); out != "db\nweb\n" {
		t.Errorf("ps -q: %q", out)
	}
	out = must(t, "ps")
	for _, part := range []string{"web", made.ID, "stopped", "64 MiB"} {
		if !strings.Contains(out, part) {
			t.Errorf("ps lacks %q: %s", part, out)
		}
	}
	// A part of the id is as good as the name.
	out = must(t, "inspect", made.ID[:6])
	for _, part := range []string{"web", "stopped", kernel, "data from " + kernel + ", read-only", "context id 3", made.Dir} {
		if !strings.Contains(out, part) {
			t.Errorf("inspect lacks %q: %s", part, out)
		}
	}
	if out := must(t, "stop", "web"); !strings.Contains(out, "web ("+made.ID+") is stopped") {
		t.Errorf("stop: %q", out)
	}
	if out := must(t, "logs", "web"); out != "" {
		t.Errorf("logs: %q", out)
	}
	if out := must(t, "wait", "web", "--for", "running,stopped"); !strings.Contains(out, "stopped") {
		t.Errorf("wait: %q", out)
	}
	if out := must(t, "snapshot", "ls", "--json"); out != `{"snapshots":[]}`+"\n" {
		t.Errorf("snapshot ls: %q", out)
	}
	if out := must(t, "config", "reload"); out != "nothing has changed\n" {
		t.Errorf("config reload: %q", out)
	}
	if out := must(t, "complete", "--", "inspect", "w"); out != "web\n" {
		t.Errorf("completion: %q", out)
	}
	if out := must(t, "delete", "web", "db", "--json"); out != `{"deleted":["web","db"]}`+"\n" {
		t.Errorf("delete: %q", out)
	}
	must(t, "delete", "web", "--if-exists")
	if out := must(t, "ps", "--json"); out != `{"instances":[]}`+"\n" {
		t.Errorf("ps --json: %q", out)
	}
}

func TestErrorsOfTheDaemon(t *testing.T) {
	data := withDaemon(t)
	kernel := filepath.Join(filepath.Dir(data), "kernel")
	if err := os.WriteFile(kernel, []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "create", "web", "--kernel", kernel)
	for name, test := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"unknown":        {[]string{"start", "nobody"}, exitNotFound, []string{"nobody", "list them"}},
		"unknown twice":  {[]string{"delete", "nobody", "noone"}, exitNotFound, []string{"nobody", "noone", "--if-exists"}},
		"no snapshot":    {[]string{"snapshot", "inspect", "none"}, exitNotFound, []string{"none"}},
		"wrong state":    {[]string{"pause", "web"}, exitConflict, []string{"web is stopped", "allowed now: start"}},
		"name taken":     {[]string{"create", "web", "--kernel", kernel}, exitConflict, []string{"web"}},
		"illegal name":   {[]string{"create", "We b", "--kernel", kernel}, exitFailed, []string{"We b"}},
		"no kernel":      {[]string{"create", "x", "--kernel", "/no/kernel"}, exitFailed, []string{"/no/kernel"}},
		"no memory":      {[]string{"create", "x", "--kernel", kernel, "--mem", "0"}, exitFailed, []string{"memory"}},
		"too late":       {[]string{"wait", "web", "--for", "running", "--timeout", "5ms"}, exitTimeout, []string{"web", "5 ms"}},
		"a bad drive":    {[]string{"create", "x", "--kernel", kernel, "--drive", "data"}, exitUsage, []string{"data=disk.img"}},
		"a bad option":   {[]string{"create", "x", "--kernel", kernel, "--drive", "data=x,rw"}, exitUsage, []string{"rw"}},
		"a bad tap":      {[]string{"fork", "web", "--tap", "eth0"}, exitUsage, []string{"eth0=tap7"}},
		"an odd state":   {[]string{"wait", "web", "--for", "asleep"}, exitUsage, []string{"asleep"}},
		"an odd backend": {[]string{"restore", "web", "--backend", "nfs"}, exitUsage, []string{"nfs"}},
	} {
		code, _, stderr := faultline(test.args...)
		for _, says := range test.says {
			if code != test.code || !strings.Contains(stderr, says) {
				t.Errorf("%s: code %d, errors %q, want %d and %q", name, code, stderr, test.code, says)
			}
		}
	}
}

func TestNoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for _, args := range [][]string{{"ps"}, {"start", "web"}, {"logs", "web"}, {"events"}, {"snapshot", "ls"}, {"delete", "web"}} {
		code, out, stderr := faultline(append(args, "--socket", socket)...)
		if code != exitNoDaemon || out != "" || !strings.Contains(stderr, socket) || !strings.Contains(stderr, "faultline daemon --config") {
			t.Errorf("%q: code %d, output %q, errors %q", args, code, out, stderr)
		}
	}
	if code, out, _ := faultline("complete", "--", "--socket", socket, "start", ""); code != exitOK || out != "" {
		t.Errorf("completion: code %d, output %q", code, out)
	}
}

func TestForkOutput(t *testing.T) {
	forks := []api.Fork{
		{Name: "a", Instance: &instance.Instance{ID: "0123", Name: "a", State: instance.Running, Backend: &instance.Choice{Backend: instance.Uffd}}},
		{Name: "b", Problem: &api.Problem{Code: "no_space", Status: 507, Detail: "no space", Remedy: "make room"}},
	}
	var out strings.Builder
	err := forkFlags{}.print(streams{out: &out}, forks)
	if err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("%v", err)
	}
	want := "NAME  ID    STATE    BACKEND  PROBLEM\na     0123  running  uffd     \nb     -     -        -        no space; make room\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
