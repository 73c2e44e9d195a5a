package contract

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

const (
	mebibyte = 1 << 20
	// memoryMiB is the memory of the suite's guests.
	memoryMiB = 64
	// patience bounds every wait for something that must happen; nothing that
	// works comes near it.
	patience = 2 * time.Minute
	// glance is how long the suite looks at something that must not happen.
	glance = 300 * time.Millisecond
)

// workload is a small guest: enough pages for several classes, few words each.
func workload() guest.Workload {
	w := guest.Default(512)
	w.Words, w.Classes, w.Seed = 8, 4, 0x5eed
	return w
}

// driver runs the target's VMMs so that none can outlive the test.
func (s suite) driver() *firecracker.Driver {
	return firecracker.New(firecracker.Config{Binary: s.target.Binary, DieWithParent: true})
}

// machine is a VMM with the guest that runs in it.
type machine struct {
	*firecracker.VMM
	t       *testing.T
	dir     string
	w       guest.Workload
	console *hypervisor.Console
}

// within bounds an operation that must come to an end.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// boot boots the workload w in a new directory and waits until it has filled its
// memory. Change may adjust the machine before.
func (s suite) boot(t *testing.T, w guest.Workload, change func(*hypervisor.BootSpec)) *machine {
	t.Helper()
	spec := hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: shortdir.Make(t), Input: true},
		VCPUs:   1, MemoryMiB: memoryMiB, TrackDirtyPages: true,
	}
	if change != nil {
		change(&spec)
	}
	spec.Kernel, spec.BootArgs = s.target.Install(t, spec.Dir, w, uint64(spec.MemoryMiB)*mebibyte)
	vmm, err := s.driver().Boot(within(t), spec)
	if err != nil {
		t.Fatalf("boot: %v", err)
	}
	m := newMachine(t, vmm, spec.Dir, w)
	m.expect(guest.Ready)
	return m
}

// restore loads a capture into a new VMM in dir.
func (s suite) restore(t *testing.T, dir string, w guest.Workload, spec hypervisor.RestoreSpec) *machine {
	t.Helper()
	spec.Process = hypervisor.Process{Dir: dir, Input: true}
	vmm, err := s.driver().Restore(within(t), spec)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return newMachine(t, vmm, dir, w)
}

func newMachine(t *testing.T, vmm hypervisor.VMM, dir string, w guest.Workload) *machine {
	t.Helper()
	m := &machine{VMM: vmm.(*firecracker.VMM), t: t, dir: dir, w: w}
	t.Cleanup(func() {
		if err := m.Kill(within(t)); err != nil {
			t.Error(err)
		}
	})
	console, err := m.Console(-1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { console.Close() })
	m.console = console
	return m
}

// command types a command and returns the guest's answer.
func (m *machine) command(command byte, answer guest.Kind) guest.Report {
	m.t.Helper()
	m.send(command)
	return m.expect(answer)
}

func (m *machine) send(command byte) {
	m.t.Helper()
	if err := m.VMM.Send([]byte{command}); err != nil {
		m.t.Fatal(err)
	}
}

// expect waits for the guest's next report.
func (m *machine) expect(kind guest.Kind) guest.Report {
	m.t.Helper()
	ctx := within(m.t)
	for {
		line, err := m.console.Next(ctx)
		if err != nil {
			m.t.Fatalf("waiting for the guest's %s: %v", kind, err)
		}
		report, ours, err := guest.ParseReport(line.Text)
		if err != nil {
			m.t.Fatal(err)
		}
		if !ours {
			continue
		}
		if report.Kind != kind {
			m.t.Fatalf("the guest said %q, want a %s", line.Text, kind)
		}
		return report
	}
}

// check makes the guest compare all of its pages, its free ones included.
func (m *machine) check() {
	m.t.Helper()
	report := m.command(guest.CommandCheck, guest.Check)
	if report.Bad != 0 || report.Pages != m.w.Pages+m.w.Free {
		m.t.Fatalf("the guest found wrong pages: %v", report)
	}
}

// write makes the guest rewrite one class of pages and returns the class.
func (m *machine) write() uint64 {
	m.t.Helper()
	return m.command(guest.CommandWrite, guest.Write).Pass % m.w.Classes
}

func (m *machine) requireState(want hypervisor.State) {
	m.t.Helper()
	state, err := m.State(within(m.t))
	if err != nil || state != want {
		m.t.Fatalf("state %q, error %v; want %q", state, err, want)
	}
}

func (m *machine) pause() {
	m.t.Helper()
	if err := m.Pause(within(m.t)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) resume() {
	m.t.Helper()
	if err := m.Resume(within(m.t)); err != nil {
		m.t.Fatal(err)
	}
}

// snapshot captures the machine, which must be paused, into two files of its
// directory, and returns their paths.
func (m *machine) snapshot(kind hypervisor.Kind, name string) capture {
	m.t.Helper()
	err := m.Snapshot(within(m.t), hypervisor.SnapshotSpec{Kind: kind, StatePath: name + ".state", MemoryPath: name + ".memory"})
	if err != nil {
		m.t.Fatalf("%s snapshot: %v", kind, err)
	}
	return capture{state: filepath.Join(m.dir, name+".state"), memory: filepath.Join(m.dir, name+".memory")}
}

// capture is a snapshot's files.
type capture struct{ state, memory string }

// fromFile restores the capture from its memory file.
func (c capture) fromFile() hypervisor.RestoreSpec {
	return hypervisor.RestoreSpec{
		StatePath: c.state, Memory: hypervisor.Memory{Backend: hypervisor.File, Path: c.memory},
		TrackDirtyPages: true, Resume: true,
	}
}

// fromSocket restores the capture through the pager on a socket.
func (c capture) fromSocket(path string) hypervisor.RestoreSpec {
	return hypervisor.RestoreSpec{
		StatePath: c.state, Memory: hypervisor.Memory{Backend: hypervisor.Uffd, Path: path},
		TrackDirtyPages: true, Resume: true,
	}
}

// requireRefused checks that err is the VMM's refusal, with an explanation.
func requireRefused(t *testing.T, what string, err error) {
	t.Helper()
	var refused *firecracker.APIError
	switch {
	case !errors.As(err, &refused):
		t.Errorf("%s: error %v, want a refusal", what, err)
	case refused.Status != http.StatusBadRequest || refused.FaultMessage == "":
		t.Errorf("%s: status %d with fault message %q, want 400 and an explanation", what, refused.Status, refused.FaultMessage)
	}
}
