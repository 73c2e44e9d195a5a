package instance

import (
	"context"
	"path/filepath"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
)

// intent writes into the record that an operation is under way, and takes it back
// if the operation fails.
func (r *run) intent(e *entry, p interrupted) error {
	before := e.record()
	return r.step(stepIntent, func(context.Context) error {
		rec := before
		p.Operation = r.op
		rec.Pending = &p
		r.onUndo(func(context.Context) error { return e.write(before) })
		return e.write(rec)
	})
}

// Start boots an instance.
func (m *Manager) Start(ctx context.Context, ref string) (Instance, error) {
	return m.change(ctx, ref, OpStart, Starting, func(r *run, e *entry) error {
		release, err := r.admit()
		defer release()
		if err != nil {
			return err
		}
		rec := e.record()
		if err := r.intent(e, interrupted{Phase: phaseUp}); err != nil {
			return err
		}
		if err := r.makeTaps(rec); err != nil {
			return err
		}
		var vmm hypervisor.VMM
		if err := r.step(stepBoot, func(ctx context.Context) (err error) {
			if err := clearSocket(e.dir, vsockName); err != nil {
				return err // an earlier VMM's, which a new one could not bind
			}
			r.onUndo(func(context.Context) error { return clearSocket(e.dir, vsockName) })
			if vmm, err = m.cfg.Hypervisor.Boot(ctx, bootSpec(e.dir, rec.Spec)); err != nil {
				return err
			}
			r.onUndo(func(ctx context.Context) error { return endStarted(ctx, vmm) })
			return nil
		}); err != nil {
			return err
		}
		// Captures from before are of another life of the guest.
		rec.Failure, rec.Parked, rec.Capture, rec.Announce = "", false, "", false
		rec.VMM = &vmmRecord{PID: vmm.Ref().PID, StartTime: vmm.Ref().StartTime}
		if err := r.step(stepRecord, func(context.Context) error { return e.write(rec) }); err != nil {
			return err
		}
		e.setVMM(vmm, capture.Booted(true))
		m.follow(e, vmm)
		r.tidy(stepForget, func(context.Context) error { return e.removeCaptures("") })
		return nil
	})
}

// bootSpec describes the machine to the VMM, with all paths relative to the
// instance's directory, where a fork finds its own.
func bootSpec(dir string, s Spec) hypervisor.BootSpec {
	spec := hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true},
		Kernel:  kernelName, BootArgs: s.BootArgs,
		VCPUs: s.VCPUs, MemoryMiB: int(s.MemoryBytes / mebibyte), TrackDirtyPages: true,
	}
	if s.Initrd != "" {
		spec.Initrd = initrdName
	}
	if s.HugePages {
		spec.HugePages = hypervisor.Huge2M
	}
	for _, d := range s.Drives {
		spec.Drives = append(spec.Drives, hypervisor.Drive{
			ID: d.ID, Path: filepath.Join(capture.DisksDir, d.ID), Root: d.Root, ReadOnly: d.ReadOnly,
		})
	}
	for _, n := range s.Networks {
		spec.Networks = append(spec.Networks, hypervisor.Network{ID: n.ID, Tap: n.Tap, GuestMAC: n.MAC})
	}
	if s.VsockCID != 0 {
		spec.Vsock = &hypervisor.Vsock{GuestCID: s.VsockCID, Path: vsockName}
	}
	if s.Balloon {
		spec.Balloon = &hypervisor.Balloon{DeflateOnOOM: true}
	}
	return spec
}

func captureDisks(s Spec) []capture.Disk {
	var disks []capture.Disk
	for _, d := range s.Drives {
		disks = append(disks, capture.Disk{Name: d.ID, ReadOnly: d.ReadOnly})
	}
	return disks
}
