package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/talk"
)

// forEachHypervisor runs a test on the simulator and on a real Firecracker.
func forEachHypervisor(t *testing.T, test func(*testing.T, firecracker.Binary)) {
	t.Run("fcsim", func(t *testing.T) {
		binary, err := firecracker.Probe(t.Context(), filepath.Join(binaries, firecracker.Simulator))
		if err != nil {
			t.Fatal(err)
		}
		test(t, binary)
	})
	t.Run("firecracker", func(t *testing.T) {
		choice, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal})
		if err != nil {
			t.Skip(err)
		}
		test(t, choice.Binary)
	})
}

// machine is a microVM whose guest checks its own memory.
type machine struct {
	hypervisor.VMM
	talk *talk.Talk
	t    *testing.T
	w    guest.Workload
}

// smallWorkload is one that an emulated guest gets through in a moment.
func smallWorkload() guest.Workload {
	w := guest.Default(1024)
	w.Words, w.Classes = 4, 4
	return w
}

const machineMiB = 32

// bootMachine boots a guest in dir that tracks dirty pages, and waits until it has
// filled its memory.
func bootMachine(t *testing.T, hv hypervisor.Hypervisor, dir string, w guest.Workload) *machine {
	t.Helper()
	image, err := kernel.Build(w, machineMiB<<20, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel"), image, 0o600); err != nil {
		t.Fatal(err)
	}
	vmm, err := hv.Boot(within(t), hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true}, Kernel: "kernel", BootArgs: w.BootArgs(),
		VCPUs: 1, MemoryMiB: machineMiB, TrackDirtyPages: true,
		Drives: []hypervisor.Drive{{ID: "data", Path: "disks/data"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, vmm, w)
	if _, err := m.talk.Await(within(t), guest.Ready); err != nil {
		t.Fatal(err)
	}
	return m
}

// newMachine talks to the guest of a VMM and sees to its end.
func newMachine(t *testing.T, vmm hypervisor.VMM, w guest.Workload) *machine {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := vmm.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	conversation, err := talk.Open(vmm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conversation.Close() })
	return &machine{VMM: vmm, talk: conversation, t: t, w: w}
}

// within bounds what has to come to an end.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// check has the guest compare all of its memory, and returns its report.
func (m *machine) check() guest.Report {
	m.t.Helper()
	r, err := m.talk.Check(within(m.t))
	if err == nil && r.Pages != m.w.Pages {
		m.t.Fatalf("the guest checked %d of its %d pages", r.Pages, m.w.Pages)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// write has the guest rewrite a class of its pages.
func (m *machine) write() guest.Report {
	m.t.Helper()
	r, err := m.talk.Write(within(m.t))
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}
