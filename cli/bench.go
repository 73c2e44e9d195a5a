package cli

import (
	"context"
	"errors"

	"github.com/faultline-vm/faultline/bench"
)

type benchCommand struct {
	Group string `arg:"" enum:"${bench_groups}" help:"What to measure: ${enum}."`
	JSON  bool   `name:"json" help:"Print one JSON object instead of a table."`
	Kills int    `default:"1000" help:"How often the group recovery kills the pager."`
	Dir   string `type:"path" help:"Where to put images and sockets; default is the directory for temporary files."`
}

// Run exits with 0 whenever it has measured: a limit that is not kept is a row of
// the report.
func (c benchCommand) Run(ctx context.Context, s streams) error {
	report, err := bench.Run(ctx, bench.Options{Group: c.Group, Kills: c.Kills, Dir: c.Dir, Version: version, Progress: s.err})
	if len(report.Cases) == 0 {
		return err
	}
	if c.JSON {
		return errors.Join(err, printJSON(s, report))
	}
	return errors.Join(err, report.WriteTable(s.out))
}
