package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/internal/chaos"
)

type chaosCommand struct {
	Only   string        `placeholder:"PATTERN" help:"Run only the cells whose name this matches, such as kill/4k/*/4cpu; see docs/chaos.md."`
	Short  bool          `help:"Run a sample that has each value of each dimension on the simulator."`
	Budget time.Duration `help:"Begin no cell after this long."`
	Seed   uint64        `help:"What the order of the cells and the moments of their events follow from; default is the time."`
	JSON   bool          `name:"json" help:"Print one JSON object instead of a table."`
	Dir    string        `type:"path" help:"Where to put images and sockets; default is the directory for temporary files."`
}

func (c chaosCommand) Run(ctx context.Context, s streams) error {
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().Unix())
	}
	report, err := chaos.Run(ctx, chaos.Config{
		Only: c.Only, Short: c.Short, Budget: c.Budget, Seed: c.Seed, Dir: c.Dir, Progress: s.err,
	})
	if len(report.Cells) == 0 {
		return err
	}
	if c.JSON {
		err = errors.Join(err, printJSON(s, report))
	} else {
		err = errors.Join(err, report.WriteTable(s.out))
	}
	if err == nil && !report.OK() {
		err = fmt.Errorf("%s", report.Summary())
	}
	return err
}
