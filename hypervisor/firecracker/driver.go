package firecracker

import (
	"context"

	"github.com/faultline-vm/faultline/hypervisor"
)

// Config says how a driver runs its VMMs. It must not be changed after [New].
type Config struct {
	// Binary is the program, as [Probe] or [Choose] returned it.
	Binary Binary
	// ExtraArgs are appended to the program's arguments, such as --no-seccomp.
	ExtraArgs []string
	// Env is the environment of the VMMs; nothing is inherited.
	Env []string
	// LogLevel is the level of the VMM's own log; empty means Warning.
	LogLevel string
	// DieWithParent makes the kernel kill the VMMs when this program ends. It is
	// meant for demonstrations and tests.
	DieWithParent bool
}

// Driver boots and restores microVMs. It implements hypervisor.Hypervisor, has no
// state of its own and is safe for concurrent use.
type Driver struct{ config Config }

var _ hypervisor.Hypervisor = (*Driver)(nil)

// New returns a driver.
func New(config Config) *Driver { return &Driver{config: config} }

// Describe says which program runs the microVMs.
func (d *Driver) Describe() hypervisor.Description {
	b := d.config.Binary
	description := hypervisor.Description{Name: b.Name, Binary: b.Path, Version: b.Version.String()}
	if b.SnapshotVersion != (Version{}) {
		description.SnapshotVersion = b.SnapshotVersion.String()
	}
	return description
}

// Boot starts a VMM and boots a guest in it. The result is a [*VMM].
func (d *Driver) Boot(ctx context.Context, spec hypervisor.BootSpec) (hypervisor.VMM, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := d.config.Binary.Require(bootFeatures(spec)...); err != nil {
		return nil, err
	}
	return d.bringUp(ctx, spec.Process, func(c *Client) error { return boot(ctx, c, spec) })
}

// Restore starts a VMM and loads a snapshot into it. The result is a [*VMM].
func (d *Driver) Restore(ctx context.Context, spec hypervisor.RestoreSpec) (hypervisor.VMM, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	load, err := loadRequest(d.config.Binary, spec)
	if err != nil {
		return nil, err
	}
	return d.bringUp(ctx, spec.Process, func(c *Client) error { return c.LoadSnapshot(ctx, load) })
}

// Attach takes up a running VMM that an earlier program started.
func (d *Driver) Attach(ctx context.Context, ref hypervisor.ProcessRef) (hypervisor.VMM, error) {
	v, err := Attach(ctx, ref)
	if err != nil {
		return nil, err
	}
	v.name = d.config.Binary.Name
	return v, nil
}

// bringUp starts a VMM and configures it; when that fails, nothing is left of it.
func (d *Driver) bringUp(ctx context.Context, process hypervisor.Process, configure func(*Client) error) (hypervisor.VMM, error) {
	v, err := Start(ctx, Options{
		Binary: d.config.Binary, Dir: process.Dir, Input: process.Input,
		ExtraArgs: d.config.ExtraArgs, Env: d.config.Env, LogLevel: d.config.LogLevel, DieWithParent: d.config.DieWithParent,
	})
	if err != nil {
		return nil, err
	}
	if err := configure(v.api); err != nil {
		return nil, v.abandon(err)
	}
	return v, nil
}

func bootFeatures(spec hypervisor.BootSpec) []Feature {
	var needed []Feature
	if spec.HugePages != hypervisor.NoHugePages {
		needed = append(needed, HugePages)
	}
	if spec.Balloon != nil && spec.Balloon.Reporting {
		needed = append(needed, FreePageReport)
	}
	return needed
}

// boot configures a fresh VMM, in the order of the devices, and starts the guest.
func boot(ctx context.Context, c *Client, spec hypervisor.BootSpec) error {
	if err := c.SetMachineConfig(ctx, MachineConfig{
		VCPUCount: spec.VCPUs, MemSizeMiB: spec.MemoryMiB,
		TrackDirtyPages: spec.TrackDirtyPages, HugePages: string(spec.HugePages),
	}); err != nil {
		return err
	}
	if err := c.SetBootSource(ctx, BootSource{
		KernelImagePath: spec.Kernel, InitrdPath: spec.Initrd, BootArgs: spec.BootArgs,
	}); err != nil {
		return err
	}
	for _, d := range spec.Drives {
		if err := c.AddDrive(ctx, Drive{DriveID: d.ID, PathOnHost: d.Path, IsRootDevice: d.Root, IsReadOnly: d.ReadOnly}); err != nil {
			return err
		}
	}
	for _, n := range spec.Networks {
		if err := c.AddNetworkInterface(ctx, NetworkInterface{IfaceID: n.ID, HostDevName: n.Tap, GuestMAC: n.GuestMAC}); err != nil {
			return err
		}
	}
	if v := spec.Vsock; v != nil {
		if err := c.SetVsock(ctx, Vsock{GuestCID: v.GuestCID, UDSPath: v.Path}); err != nil {
			return err
		}
	}
	if b := spec.Balloon; b != nil {
		if err := c.SetBalloon(ctx, Balloon{
			AmountMiB: b.TargetMiB, DeflateOnOOM: b.DeflateOnOOM,
			StatsPollingIntervalS: b.StatisticsSeconds, FreePageReporting: b.Reporting,
		}); err != nil {
			return err
		}
	}
	return c.StartInstance(ctx)
}

// loadRequest is the body of the load in the words that the binary knows.
func loadRequest(b Binary, spec hypervisor.RestoreSpec) (SnapshotLoad, error) {
	load := SnapshotLoad{
		SnapshotPath:  spec.StatePath,
		MemBackend:    MemoryBackend{BackendType: string(spec.Memory.Backend), BackendPath: spec.Memory.Path},
		ResumeVM:      spec.Resume,
		ClockRealtime: spec.ClockRealtime,
	}
	needed := []Feature{MemBackend}
	// Before 1.13 tracking had another name, which later versions still accept
	// and call deprecated.
	if b.Supports(TrackDirtyPages) {
		load.TrackDirtyPages = spec.TrackDirtyPages
	} else {
		load.EnableDiffSnapshots = spec.TrackDirtyPages
	}
	for _, o := range spec.NetworkOverrides {
		load.NetworkOverrides = append(load.NetworkOverrides, NetworkOverride{IfaceID: o.ID, HostDevName: o.Tap})
	}
	if len(spec.NetworkOverrides) > 0 {
		needed = append(needed, NetworkOverrides)
	}
	if spec.VsockOverride != "" {
		needed = append(needed, VsockOverride)
		load.VsockOverride = &VsockPath{UDSPath: spec.VsockOverride}
	}
	if spec.ClockRealtime {
		needed = append(needed, ClockRealtime)
	}
	return load, b.Require(needed...)
}
