package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

// forkFlags say what forks to make.
type forkFlags struct {
	Count    int       `default:"1" help:"How many forks to make at once, up to 1000."`
	Name     string    `help:"The fork's name; several get a number behind it. Default is made of the id."`
	Target   string    `enum:"running,standby,stopped" default:"running" help:"The state to reach: running, standby or stopped."`
	Backend  string    `enum:",file,uffd,auto" default:"" help:"Where the memory comes from: file, uffd or auto; default is what the daemon is configured for."`
	Tap      []tapFlag `sep:"none" placeholder:"ID=TAP" help:"Give an interface of a single fork this tap; may be repeated."`
	Identity string    `help:"Put this text on the identity page; see docs/daemon.md."`
	JSON     bool      `name:"json" help:"Print JSON."`
}

func (f forkFlags) request() instance.ForkRequest {
	r := instance.ForkRequest{
		Count: f.Count, Target: instance.State(f.Target), Backend: instance.Backend(f.Backend), Identity: []byte(f.Identity),
	}
	if f.Name != "" {
		r.Names = []string{f.Name}
	}
	for _, t := range f.Tap {
		r.Taps = append(r.Taps, instance.Tap(t))
	}
	return r
}

// make asks for forks of a source, and prints them.
func (f forkFlags) make(s streams, a daemonAddress, source string, fn func(*client.Client) ([]api.Fork, error)) error {
	var forks []api.Fork
	err := a.ask(s, "fork "+source, func(d *client.Client) (err error) {
		forks, err = fn(d)
		return err
	})
	if err != nil {
		return err
	}
	return f.print(s, forks)
}

// print prints the forks, and returns an error if one of them failed.
func (f forkFlags) print(s streams, forks []api.Fork) error {
	failed := 0
	for _, one := range forks {
		if one.Problem != nil {
			failed++
		}
	}
	var err error
	if f.JSON {
		err = printJSON(s, api.Forks{Forks: forks})
	} else {
		table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "NAME\tID\tSTATE\tBACKEND\tPROBLEM")
		for _, one := range forks {
			if one.Problem != nil {
				fmt.Fprintf(table, "%s\t-\t-\t-\t%v\n", one.Name, one.Problem)
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", one.Name, one.Instance.ID, one.Instance.State, backend(*one.Instance))
		}
		err = table.Flush()
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d forks failed", failed, len(forks))
	}
	return err
}

type forkCommand struct {
	daemonAddress
	forkFlags
	Instance string `arg:"" complete:"instance" help:"The instance to fork; one that runs is captured and goes on."`
}

func (c forkCommand) Run(ctx context.Context, s streams) error {
	request := c.request()
	request.Source = c.Instance
	return c.make(s, c.daemonAddress, c.Instance, func(d *client.Client) ([]api.Fork, error) { return d.Fork(ctx, request) })
}
