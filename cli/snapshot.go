package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
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

type snapshotLsCommand struct {
	daemonAddress
	Quiet bool `short:"q" help:"Print names only."`
	JSON  bool `name:"json" help:"Print JSON."`
}

func (c snapshotLsCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "list snapshots", func(d *client.Client) error {
		list, err := d.Snapshots(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, api.Snapshots{Snapshots: list})
		}
		table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		if !c.Quiet {
			fmt.Fprintln(table, "NAME\tID\tOF\tMEMORY\tLAYERS\tAGE")
		}
		for _, one := range list {
			if c.Quiet {
				fmt.Fprintln(table, one.Name)
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", one.Name, one.ID, one.InstanceName,
				humanize.IBytes(one.Spec.MemoryBytes), one.Layers, age(one.Created))
		}
		return table.Flush()
	})
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
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, found)
		}
		return describe(s, append([][2]string{
			{"name", found.Name}, {"id", found.ID}, {"created", found.Created.Format(time.RFC3339)},
			{"of", found.InstanceName + " (" + found.Instance + ")"}, {"directory", found.Dir},
			{"layers", fmt.Sprint(found.Layers)},
		}, append(specRows(found.Spec), captureRows(&found.Capture)...)...))
	})
}

type snapshotForkCommand struct {
	oneSnapshot
	forkFlags
}

func (c snapshotForkCommand) Run(ctx context.Context, s streams) error {
	var forks []api.Fork
	err := c.ask(s, "fork "+c.Snapshot, func(d *client.Client) (err error) {
		forks, err = d.ForkSnapshot(ctx, c.Snapshot, c.request())
		return err
	})
	if err != nil {
		return err
	}
	return c.print(s, forks)
}

type snapshotRestoreCommand struct {
	oneSnapshot
	restoreFlags
	JSON bool `name:"json" help:"Print JSON."`
}

func (c snapshotRestoreCommand) Run(ctx context.Context, s streams) error {
	var after instance.Instance
	err := c.ask(s, "restore "+c.Snapshot, func(d *client.Client) (err error) {
		after, err = d.RestoreSnapshot(ctx, c.Snapshot, c.request())
		return err
	})
	if err != nil {
		return err
	}
	return printInstance(s, after, c.JSON)
}

type snapshotDeleteCommand struct {
	daemonAddress
	Snapshots []string `arg:"" complete:"snapshot" help:"The snapshots: names, ids, or beginnings of ids."`
	IfExists  bool     `help:"That there is no such snapshot is no error."`
	JSON      bool     `name:"json" help:"Print JSON."`
}

func (c snapshotDeleteCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "delete", func(d *client.Client) error {
		return deleteAll(s, c.Snapshots, c.IfExists, c.JSON, "snapshot", func(ref string) (bool, error) { return d.DeleteSnapshot(ctx, ref) })
	})
}
