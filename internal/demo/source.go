package demo

import (
	"context"
	"fmt"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/talk"
)

// Names of the instance that boots and of its snapshot.
const (
	sourceName   = "source"
	snapshotName = "filled"
)

// makeSource boots the source guest, makes a snapshot of it while it runs and
// deletes it: the forks have nothing but the snapshot.
func (d *demo) makeSource(ctx context.Context) error {
	spec := instance.Spec{VCPUs: 1, MemoryBytes: d.cfg.Memory, HugePages: d.cfg.HugePages}
	if err := d.guest.install(d.dir, &spec); err != nil {
		return err
	}
	if d.cfg.Backend == instance.File {
		spec.IdentityAddress = 0
	}
	d.identified = spec.IdentityAddress != 0
	d.progress.say("booting the source and letting it fill its memory")
	if _, err := d.manager.Create(ctx, instance.CreateRequest{Name: sourceName, Spec: spec}); err != nil {
		return err
	}
	source, err := d.manager.Start(ctx, sourceName)
	if err != nil {
		return err
	}
	if err := d.awaitBoot(ctx, source.ID); err != nil {
		return fmt.Errorf("boot the source: %w", err)
	}

	d.progress.say("capturing it")
	if _, err := d.manager.CreateSnapshot(ctx, sourceName, instance.SnapshotRequest{Name: snapshotName}); err != nil {
		return err
	}
	return d.manager.Delete(ctx, sourceName)
}

func (d *demo) awaitBoot(ctx context.Context, id string) error {
	t, err := talk.Open(machine{d.manager, id})
	if err != nil {
		return err
	}
	defer t.Close()
	return d.guest.booted(ctx, t)
}
