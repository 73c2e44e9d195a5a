package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest/linux/linuxtest"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/hugepages"
)

// result is the part of the demonstration's JSON that is promised.
type result struct {
	Hypervisor      string
	Why             string
	Backend         string
	Forks           int
	PagesVerified   uint64 `json:"pages_verified"`
	PagesMismatched uint64 `json:"pages_mismatched"`
	RestoreMS       struct {
		P50, P95, P99 float64
	} `json:"restore_ms"`
	Faults          uint64
	ImageBytesRead  uint64 `json:"image_bytes_read"`
	ForkMemoryBytes uint64 `json:"fork_memory_bytes"`
	Failures        []string
}

const (
	testForks  = 5
	testPages  = 2048
	testMemory = "64MiB"
	testSet    = "8MiB"
)

// demo runs the demonstration with small sizes.
func demo(t *testing.T, bin string, prepare func(*exec.Cmd), args ...string) run {
	t.Helper()
	return faultline(t, bin, prepare, append([]string{"demo", "--data-dir", dataDir(t),
		"--forks", "5", "--mem", testMemory, "--working-set", testSet}, args...)...)
}

// checkResult checks what is true of every demonstration that went well.
func checkResult(t *testing.T, r run, hypervisor, backend string) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("the demonstration failed: %v", r)
	}
	var got result
	decode(t, r, &got)
	if got.Hypervisor != hypervisor || got.Why == "" || got.Backend != backend || got.Forks != testForks {
		t.Errorf("hypervisor %q because %q, backend %q, %d forks", got.Hypervisor, got.Why, got.Backend, got.Forks)
	}
	if want := uint64(2 * testForks * testPages); got.PagesVerified != want || got.PagesMismatched != 0 || len(got.Failures) != 0 {
		t.Errorf("%d pages verified, want %d; %d mismatched, failures %q", got.PagesVerified, want, got.PagesMismatched, got.Failures)
	}
	if p := got.RestoreMS; p.P50 <= 0 || p.P95 < p.P50 || p.P99 < p.P95 {
		t.Errorf("times to restore %+v are no percentiles", p)
	}
	if got.ForkMemoryBytes == 0 {
		t.Error("forks without memory")
	}
	if backend == "uffd" {
		// Every page of every fork comes through the pager, 2 MiB at a time at
		// most, and all of the working set was read from the image.
		if got.Faults < testForks || got.ImageBytesRead < testPages*4096 {
			t.Errorf("%d faults and %d bytes read are too few", got.Faults, got.ImageBytesRead)
		}
	}
	if !strings.Contains(r.stderr, "restored 5 of 5\n") || !strings.Contains(r.stderr, "verified 5 of 5\n") {
		t.Errorf("progress lacks the end of a step: %s", r.stderr)
	}
}

func TestDemoOnTheSimulator(t *testing.T) {
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			r := demo(t, binaries, nil, "--hypervisor", "fcsim", "--backend", backend, "--json")
			checkResult(t, r, "fcsim", backend)
		})
	}
}

func TestDemoOnFirecracker(t *testing.T) {
	if _, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal}); err != nil {
		t.Skip(err)
	}
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			r := demo(t, binaries, nil, "--hypervisor", "firecracker", "--backend", backend, "--json")
			checkResult(t, r, "firecracker", backend)
		})
	}
}

// TestDemoKillsThePager kills the pager again and again under forks that work.
func TestDemoKillsThePager(t *testing.T) {
	for _, hypervisor := range []string{"fcsim", "firecracker"} {
		t.Run(hypervisor, func(t *testing.T) {
			if hypervisor == "firecracker" {
				if _, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal}); err != nil {
					t.Skip(err)
				}
			}
			r := demo(t, binaries, nil, "--hypervisor", hypervisor, "--kill-pager", "--json")
			if r.code != 0 {
				t.Fatalf("the demonstration failed: %v", r)
			}
			var got struct {
				Kills         int    `json:"pager_kills"`
				VMsLost       int    `json:"vms_lost"`
				PagesVerified uint64 `json:"pages_verified"`
				Mismatched    uint64 `json:"pages_mismatched"`
			}
			decode(t, r, &got)
			if got.Kills < 20 || got.VMsLost != 0 || got.Mismatched != 0 || got.PagesVerified < 2*testForks*testPages {
				t.Errorf("after %d kills: %+v", got.Kills, got)
			}
		})
	}
}

func TestDemoWithLinux(t *testing.T) {
	if _, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal}); err != nil {
		t.Skip(err)
	}
	guest := linuxtest.Require(t)
	args := []string{"demo", "--data-dir", dataDir(t), "--hypervisor", "firecracker", "--forks", "2", "--mem", "64MiB",
		"--kernel", guest.Kernel, "--boot-args", guest.BootArgs, "--json"}
	if guest.Initrd != "" {
		args = append(args, "--initrd", guest.Initrd)
	}
	r := faultline(t, binaries, nil, args...)
	var got result
	decode(t, r, &got)
	if r.code != 0 || got.PagesVerified == 0 || got.PagesMismatched != 0 || got.Faults == 0 {
		t.Errorf("the demonstration with Linux gave %v", r)
	}
}

func TestDemoAsOrdinaryUser(t *testing.T) {
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			r := demo(t, binaries, asOrdinaryUser, "--backend", backend, "--json")
			var got result
			decode(t, r, &got)
			checkResult(t, r, got.Hypervisor, backend)
		})
	}
}

func TestDemoPrintsATable(t *testing.T) {
	r := demo(t, binaries, nil, "--hypervisor", "fcsim", "--parallel", "2")
	if r.code != 0 {
		t.Fatalf("the demonstration failed: %v", r)
	}
	for _, want := range []string{"restore to ready", "p50", "p95", "p99", "page faults", "read from the image", "memory per fork", "20,480"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the table lacks %q: %s", want, r.stdout)
		}
	}
	if !strings.Contains(r.stderr, "the simulator, because it was asked for") {
		t.Errorf("the progress does not say which hypervisor and why: %s", r.stderr)
	}
}

func TestDemoOnHugePages(t *testing.T) {
	hypervisors := []string{"fcsim"}
	if _, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal}); err == nil {
		hypervisors = append(hypervisors, "firecracker")
	}
	for _, hypervisor := range hypervisors {
		t.Run(hypervisor, func(t *testing.T) {
			hugepages.Reserve(t, 64)
			r := demo(t, binaries, nil, "--hypervisor", hypervisor, "--huge-pages", "--json")
			checkResult(t, r, hypervisor, "uffd")
			var got result
			if decode(t, r, &got); got.Faults >= testForks*testPages {
				t.Errorf("%d faults for %d pages: these were not pages of 2 MiB", got.Faults, testForks*testPages)
			}
		})
	}
}

func TestDemoWithoutHugePages(t *testing.T) {
	// More than any test host has to spare.
	r := demo(t, binaries, nil, "--hypervisor", "fcsim", "--huge-pages", "--forks", "1000", "--mem", "1TiB", "--working-set", "512GiB")
	if r.code != 1 || !strings.Contains(r.stderr, "2 MiB") {
		t.Errorf("a pool that is too small gave %v", r)
	}
}
