package capture

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/internal/talk"
)

// machineMiB is the memory of simulated guests: what their layout needs and little more.
const machineMiB = 18

// driver runs this test binary as fcsim.
func driver(t *testing.T) *firecracker.Driver {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return firecracker.New(firecracker.Config{
		Binary: firecracker.Binary{
			Path: self, Name: firecracker.Simulator,
			Version: firecracker.Version{Major: 1, Minor: 16}, SnapshotVersion: firecracker.Version{Major: 1},
		},
		Env: []string{simulatorVariable + "=1"}, DieWithParent: true,
	})
}

// machine is a simulated guest that checks its own memory.
type machine struct {
	hypervisor.VMM
	talk *talk.Talk
	t    *testing.T
	hv   hypervisor.Description
}

// bootMachine boots a guest that tracks dirty pages and waits until it is ready.
func bootMachine(t *testing.T) *machine {
	t.Helper()
	w := guest.Default(128)
	w.Classes, w.Words = 4, 8
	dir := shortdir.Make(t)
	kernel := filepath.Join(dir, "kernel")
	if err := os.WriteFile(kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := driver(t)
	vmm, err := d.Boot(within(t), hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true}, Kernel: kernel, BootArgs: w.BootArgs(),
		VCPUs: 1, MemoryMiB: machineMiB, TrackDirtyPages: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	if _, err := conversation.Await(within(t), guest.Ready); err != nil {
		t.Fatal(err)
	}
	return &machine{VMM: vmm, talk: conversation, t: t, hv: d.Describe()}
}

// within bounds what has to come to an end.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// check has the guest compare all of its memory.
func (m *machine) check() {
	m.t.Helper()
	if _, err := m.talk.Check(within(m.t)); err != nil {
		m.t.Error(err)
	}
}

// write has the guest rewrite a quarter of its pages.
func (m *machine) write() {
	m.t.Helper()
	if _, err := m.talk.Write(within(m.t)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) captures() string { return filepath.Join(m.Ref().Dir, CapturesDir) }

func (m *machine) request(l *Lineage) Request {
	return Request{VMM: m.VMM, Hypervisor: m.hv, Lineage: l}
}
