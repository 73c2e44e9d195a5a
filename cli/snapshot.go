package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

type snapshotCommand struct {
	Create  snapshotCreateCommand  `cmd:"" help:"Make a snapshot of an instance, which goes on as it was."`
	Ls      snapshotLsCommand      `cmd:"" help:"List the snapshots."`
	Inspect snapshotInspectCommand `cmd:"" help:"Describe a snapshot."`
	Fork    snapshotForkCommand    `cmd:"" help:"Make new instances of a snapshot."`
	Restore snapshotRestoreCommand `cmd:"" help:"Put the instance that a snapshot was taken of back to it."`
	Delete  snapshotDeleteCommand  `cmd:"" help:"Delete snapshots; their forks do not notice."`
}

type snapshotCreateCommand struct {
	oneInstance
	Name string `help:"The snapshot's name; default is made of its id."`
}

func (c snapshotCreateCommand) Run(ctx context.Context, s streams) error {
	var made instance.Snapshot
	err := c.ask(s, "snapshot "+c.Instance, func(d *client.Client) (err error) {
		made, err = d.CreateSnapshot(ctx, c.Instance, instance.SnapshotRequest{Name: c.Name})
		return err
	})
	if err != nil {
		return err
	}
	warn(s, made.Warnings)
	if c.JSON {
		return printJSON(s, made)
	}
	_, err = fmt.Fprintf(s.out, "snapshot %s (%s) of %s: the guest stood still for %.0f ms\n", made.Name, made.ID, made.InstanceName, made.Capture.PauseMS)
	return err
}

type snapshotLsCommand struct{ listFlags }

func (c snapshotLsCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "list snapshots", func(d *client.Client) error {
		list, err := d.Snapshots(ctx)
		return c.print(s, api.Snapshots{Snapshots: list}, err, snapshotTable(list))
	})
}

func snapshotTable(list []instance.Snapshot) [][]string {
	table := [][]string{{"NAME", "ID", "OF", "MEMORY", "LAYERS", "AGE", "PROBLEM"}}
	for _, one := range list {
		table = append(table, []string{one.Name, one.ID, one.InstanceName, humanize.IBytes(one.Spec.MemoryBytes),
			fmt.Sprint(one.Layers), age(one.Created), one.Broken})
	}
	return table
}

// oneSnapshot are the arguments of a command about one snapshot.
type oneSnapshot struct {
	daemonAddress
	Snapshot string `arg:"" complete:"snapshot" help:"The snapshot: its name, its id, or the beginning of the id."`
}

type snapshotInspectCommand struct {
	oneSnapshot
	JSON bool `name:"json" help:"Print JSON."`
}

func (c snapshotInspectCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "inspect", func(d *client.Client) error {
		found, err := d.Snapshot(ctx, c.Snapshot)
		return printFound(s, c.JSON, found, err, snapshotRows)
	})
}

func snapshotRows(found instance.Snapshot) [][2]string {
	rows := [][2]string{{"name", found.Name}, {"id", found.ID}, {"directory", found.Dir}, {"broken", found.Broken}}
	if found.Instance == "" {
		return rows // nothing else is known
	}
	rows = append(rows, [][2]string{
		{"created", found.Created.Format(time.RFC3339)}, {"of", found.InstanceName + " (" + found.Instance + ")"},
		{"layers", fmt.Sprint(found.Layers)},
	}...)
	return append(append(rows, specRows(found.Spec)...), captureRows(&found.Capture)...)
}

type snapshotForkCommand struct {
	oneSnapshot
	forkFlags
}

func (c snapshotForkCommand) Run(ctx context.Context, s streams) error {
	return c.make(s, c.daemonAddress, c.Snapshot, func(d *client.Client) ([]api.Fork, error) {
		return d.ForkSnapshot(ctx, c.Snapshot, c.request())
	})
}

type snapshotRestoreCommand struct {
	oneSnapshot
	restoreFlags
	JSON bool `name:"json" help:"Print JSON."`
}

func (c snapshotRestoreCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "restore "+c.Snapshot, c.JSON, func(d *client.Client) (instance.Instance, error) {
		return d.RestoreSnapshot(ctx, c.Snapshot, c.request())
	})
}

type snapshotDeleteCommand struct {
	deleteFlags
	Snapshots []string `arg:"" complete:"snapshot" help:"The snapshots: names, ids, or beginnings of ids."`
}

func (c snapshotDeleteCommand) Run(ctx context.Context, s streams) error {
	return c.delete(s, "snapshot", c.Snapshots, func(d *client.Client, ref string) (bool, error) { return d.DeleteSnapshot(ctx, ref) })
}
