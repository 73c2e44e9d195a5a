package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/memimage"
)

type daemonStatsCommand struct {
	daemonAddress
	JSON bool `name:"json" help:"Print JSON instead of a table."`
}

func (c daemonStatsCommand) Run(ctx context.Context, s streams) error {
	var stats instance.Stats
	if err := c.ask(s, "stats", func(d *client.Client) (err error) {
		stats, err = d.Stats(ctx)
		return err
	}); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, stats)
	}
	return printStats(s, stats)
}

func printStats(s streams, stats instance.Stats) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "files shared\t%s\n", rungs(stats.Shared))
	fmt.Fprintf(table, "disks copied\t%s\n", rungs(stats.Copied))
	if stats.Unlinked != "" {
		fmt.Fprintf(table, "not hard-linked\t%s\n", stats.Unlinked)
	}
	u := stats.Upkeep
	fmt.Fprintf(table, "stacks flattened\t%d, for %d images\n", u.Flattened, u.Superseded)
	fmt.Fprintf(table, "layers with checksums\t%d\n", u.Checksummed)
	if u.Failed > 0 {
		fmt.Fprintf(table, "upkeep failed\t%d, the last time: %s\n", u.Failed, u.LastError)
	}
	return table.Flush()
}

// rungs lists how often each rung was used, by name.
func rungs(counts map[memimage.Rung]uint64) string {
	if len(counts) == 0 {
		return "none"
	}
	var parts []string
	for _, rung := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d by %s", counts[rung], strings.ReplaceAll(string(rung), "_", " ")))
	}
	return strings.Join(parts, ", ")
}
