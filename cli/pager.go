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
)

type pagerCommand struct {
	Sessions sessionsCommand `cmd:"" help:"List the sessions."`
	Stats    statsCommand    `cmd:"" help:"Print what the pager counts, as JSON."`
	Drain    drainCommand    `cmd:"" help:"Let the pager take no new sessions and exit after its last."`
}

// pagerAddress says which pager is asked.
type pagerAddress struct {
	DataDir      string `type:"path" default:"/var/lib/faultline" env:"FAULTLINE_DATA_DIR" help:"The data directory that the pager serves."`
	PagerVersion string `help:"The version of the pager; default is the one of this program."`
}

func (a pagerAddress) client() *client.Client {
	version := a.PagerVersion
	if version == "" {
		version = pager.Version()
	}
	return client.New(pager.ControlSocket(a.DataDir, version))
}

type sessionsCommand struct {
	pagerAddress
	JSON bool `name:"json" help:"Print JSON instead of a table."`
}

func (c sessionsCommand) Run(ctx context.Context, s streams) error {
	pager := c.client()
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
	pager := c.client()
	defer pager.Close()
	stats, err := pager.Stats(ctx)
	if err != nil {
		return err
	}
	return printJSON(s, stats)
}

type drainCommand struct{ pagerAddress }

func (c drainCommand) Run(ctx context.Context, s streams) error {
	pager := c.client()
	defer pager.Close()
	health, err := pager.Drain(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "pager %s, process %d, is draining: %d sessions left\n", health.Version, health.PID, health.Sessions)
	return err
}

// printJSON prints one value on one line.
func printJSON(s streams, value any) error {
	if err := json.NewEncoder(s.out).Encode(value); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
