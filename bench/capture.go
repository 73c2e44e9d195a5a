package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/talk"
)

// captureSize is how much work the cases of the group capture do.
type captureSize struct {
	forkRounds int
	// smallGuest and largeGuest are the memories of the images that are forked, in
	// bytes; one page in 16 of either is data.
	smallGuest, largeGuest uint64

	pauseRounds int
	// dirty is how many bytes a guest has written before it is captured.
	dirty uint64
	// parked is the memory of the guest whose forks park, in bytes.
	parked     uint64
	parkRounds int

	stackGuest  uint64
	stackLayers int
	// stackPages is how many scattered pages each of the layers has.
	stackPages int
	openRounds int
}

func fullCaptureSize() captureSize {
	return captureSize{
		forkRounds: 41, smallGuest: 1 << 30, largeGuest: 8 << 30,
		pauseRounds: 11, dirty: 64 << 20, parked: 1 << 30, parkRounds: 5,
		stackGuest: 8 << 30, stackLayers: 16, stackPages: 10000, openRounds: 21,
	}
}

// capture measures the group of that name. Its microVMs are run by the simulator:
// the figures are about files, and its snapshots are written as Firecracker writes
// them.
func (r *run) capture() ([]Case, error) {
	fork, forkErr := r.captureForks()
	bytes, bytesErr := r.captureBytes()
	pause, pauseErr := r.capturePause()
	park, parkErr := r.captureFirstPark()
	open, openErr := r.captureOpen()
	cases := append(fork, bytes, pause, park)
	return append(cases, open...), errors.Join(forkErr, bytesErr, pauseErr, parkErr, openErr)
}

// simulator returns a driver of fcsim.
func (r *run) simulator() (*firecracker.Driver, error) {
	choice, err := firecracker.Choose(r.ctx, firecracker.Selection{
		Prefer: firecracker.PreferSimulator, Simulator: r.SimulatorBinary,
	})
	if err != nil {
		return nil, err
	}
	return firecracker.New(firecracker.Config{Binary: choice.Binary, DieWithParent: true}), nil
}

// machine is a simulated microVM under measurement.
type machine struct {
	hypervisor.VMM
	*talk.Talk
	hv      *firecracker.Driver
	lineage *capture.Lineage
}

// bootMachine boots a guest of so much memory in a directory of that name, and
// waits until it has filled its pages.
func (r *run) bootMachine(name string, memory uint64, w guest.Workload) (*machine, error) {
	hv, err := r.simulator()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel"), nil, 0o600); err != nil {
		return nil, err
	}
	vmm, err := hv.Boot(r.ctx, hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true}, Kernel: "kernel", BootArgs: w.BootArgs(),
		VCPUs: 1, MemoryMiB: int(memory >> 20), TrackDirtyPages: true,
	})
	if err != nil {
		return nil, err
	}
	m, err := r.converse(hv, vmm, capture.Booted(true))
	if err != nil {
		return nil, err
	}
	if _, err := m.Await(r.ctx, guest.Ready); err != nil {
		return nil, errors.Join(err, r.end(m))
	}
	return m, nil
}

// converse makes a machine of a VMM, which it ends when it fails.
func (r *run) converse(hv *firecracker.Driver, vmm hypervisor.VMM, l *capture.Lineage) (*machine, error) {
	t, err := talk.Open(vmm)
	if err != nil {
		ctx, cancel := r.cleanUpContext()
		defer cancel()
		return nil, errors.Join(err, vmm.Kill(ctx))
	}
	return &machine{VMM: vmm, Talk: t, hv: hv, lineage: l}, nil
}

// end ends a machine, also when the run is over.
func (r *run) end(m *machine) error {
	ctx, cancel := r.cleanUpContext()
	defer cancel()
	return errors.Join(m.Close(), m.Kill(ctx))
}

// request is one for a capture of the machine, straight to disk.
func (m *machine) request() capture.Request {
	return capture.Request{VMM: m.VMM, Hypervisor: m.hv.Describe(), Lineage: m.lineage}
}

// workload is one that fills most of a guest's memory and rewrites a class of its
// pages at each write.
func workload(pages, classes uint64) guest.Workload {
	w := guest.Default(pages)
	w.Classes = classes
	return w
}

// room is the part of a simulated guest's memory that its workload does not use.
const room = guest.BaseAddress + 1<<20

// removeCaptures removes all captures of an instance but one.
func removeCaptures(dir, keep string) error {
	list, err := capture.List(filepath.Join(dir, capture.CapturesDir))
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Record.ID == keep {
			continue
		}
		if err := capture.Remove(c.Dir); err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
	}
	return nil
}
