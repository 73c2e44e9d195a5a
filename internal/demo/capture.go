package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// Names of a capture's files, beside those that package memimage fixes.
const (
	stateName  = "vmstate"
	memoryName = "memory" // as the VMM writes it, before it is sealed
)

// captured is what the forks are made from.
type captured struct {
	state    string // path of the VM state
	manifest string // path of memory.json
	flat     string // path of the image's only layer
}

// capture boots the source guest, captures it and ends it.
func (d *demo) capture(ctx context.Context) (c captured, err error) {
	dir, err := d.instanceDir("source")
	if err != nil {
		return c, err
	}
	// Below the instance's directory, so that the VMM can name it relatively.
	const relative = "captures/1"
	captureDir := filepath.Join(dir, relative)
	if err := os.MkdirAll(captureDir, 0o700); err != nil {
		return c, fmt.Errorf("make capture directory: %w", err)
	}
	spec := hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true},
		VCPUs:   1, MemoryMiB: int(d.cfg.Memory / mebibyte),
	}
	if d.cfg.HugePages {
		spec.HugePages = hypervisor.Huge2M
	}
	if err := d.guest.install(dir, &spec); err != nil {
		return c, err
	}
	d.progress.say("booting the source and letting it fill its memory")
	vmm, err := d.hv.Boot(ctx, spec)
	if err != nil {
		return c, fmt.Errorf("boot the source: %w", err)
	}
	defer func() { err = errors.Join(err, kill(ctx, vmm)) }()
	if err := d.awaitBoot(ctx, vmm); err != nil {
		return c, fmt.Errorf("boot the source: %w", err)
	}

	d.progress.say("capturing it")
	if err := vmm.Pause(ctx); err != nil {
		return c, fmt.Errorf("pause the source: %w", err)
	}
	if err := vmm.Snapshot(ctx, hypervisor.SnapshotSpec{
		Kind: hypervisor.Full, StatePath: relative + "/" + stateName, MemoryPath: relative + "/" + memoryName,
	}); err != nil {
		return c, fmt.Errorf("capture the source: %w", err)
	}
	return seal(ctx, captureDir)
}

func (d *demo) awaitBoot(ctx context.Context, vmm hypervisor.VMM) error {
	talk, err := converse(vmm)
	if err != nil {
		return err
	}
	defer talk.close()
	return d.guest.booted(ctx, talk)
}

// seal makes a memory image of the memory file in dir.
func seal(ctx context.Context, dir string) (captured, error) {
	if _, err := memimage.Seal(ctx, memimage.SealOptions{
		Source: filepath.Join(dir, memoryName), Dir: dir, Kind: memimage.Full,
	}); err != nil {
		return captured{}, err
	}
	manifest := filepath.Join(dir, memimage.ManifestName)
	image, err := memimage.Open(manifest)
	if err != nil {
		return captured{}, err
	}
	flat, err := image.FlatPath()
	if err = errors.Join(err, image.Close()); err != nil {
		return captured{}, err
	}
	return captured{state: filepath.Join(dir, stateName), manifest: manifest, flat: flat}, nil
}
