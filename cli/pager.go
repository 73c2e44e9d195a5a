package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/fleet"
)

type pagerCommand struct {
	Ls       pagerLsCommand      `cmd:"" help:"List the versions of the pager, and how each does."`
	Upgrade  pagerUpgradeCommand `cmd:"" help:"Hand all sessions over to another version of the pager, newer or older, while their guests run."`
	Drain    pagerDrainCommand   `cmd:"" help:"Let a pager take no new sessions and end after its last."`
	Detach   pagerDetachCommand  `cmd:"" help:"Give a guest all of its memory and end its session while it runs on."`
	Sessions sessionsCommand     `cmd:"" help:"List the sessions of a pager."`
	Stats    statsCommand        `cmd:"" help:"Print what a pager counts, as JSON."`
}

// pagerAddress says which pager is asked.
type pagerAddress struct {
	DataDir      string `type:"path" default:"/var/lib/faultline" env:"FAULTLINE_DATA_DIR" help:"The data directory that the pager serves."`
	PagerVersion string `help:"The version of the pager; default is the one that new sessions go to."`
}

func (a pagerAddress) client() (*client.Client, error) {
	version := a.PagerVersion
	if version == "" {
		var err error
		if version, err = fleet.Current(a.DataDir); err != nil {
			return nil, err
		}
	}
	return client.New(pager.ControlSocket(a.DataDir, version)), nil
}

type sessionsCommand struct {
	pagerAddress
	JSON bool `name:"json" help:"Print JSON instead of a table."`
}

func (c sessionsCommand) Run(ctx context.Context, s streams) error {
	pager, err := c.client()
	if err != nil {
		return err
	}
	defer pager.Close()
	sessions, err := pager.Sessions(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, control.Sessions{Sessions: sessions})
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SESSION\tSTATE\tVMM\tMEMORY\tFAULTS\tREAD\tREASON")
	for _, one := range sessions {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", one.ID, one.State, one.VMMPID, humanize.IBytes(one.Memory),
			humanize.Comma(int64(one.Stats.Faults)), humanize.IBytes(one.Stats.ReadBytes), one.Reason)
	}
	return table.Flush()
}

type statsCommand struct{ pagerAddress }

func (c statsCommand) Run(ctx context.Context, s streams) error {
	pager, err := c.client()
	if err != nil {
		return err
	}
	defer pager.Close()
	stats, err := pager.Stats(ctx)
	if err != nil {
		return err
	}
	return printJSON(s, stats)
}

// printJSON prints one value on one line.
func printJSON(s streams, value any) error {
	if err := json.NewEncoder(s.out).Encode(value); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
