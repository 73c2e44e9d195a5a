package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

// oneInstance are the arguments of a command about one instance.
type oneInstance struct {
	daemonAddress
	Instance string `arg:"" complete:"instance" help:"The instance: its name, its id, or the beginning of the id."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

func (o oneInstance) change(s streams, step string, fn func(*client.Client) (instance.Instance, error)) error {
	return o.daemonAddress.change(s, step+" "+o.Instance, o.JSON, fn)
}

type startCommand struct{ oneInstance }

func (c startCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "start", func(d *client.Client) (instance.Instance, error) { return d.Start(ctx, c.Instance) })
}

type stopCommand struct {
	oneInstance
	Force bool `help:"Also stop an instance that is unknown, and give up the capture of one in standby."`
}

func (c stopCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "stop", func(d *client.Client) (instance.Instance, error) {
		return d.Stop(ctx, c.Instance, instance.StopRequest{Force: c.Force})
	})
}

type pauseCommand struct{ oneInstance }

func (c pauseCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "pause", func(d *client.Client) (instance.Instance, error) { return d.Pause(ctx, c.Instance) })
}

type resumeCommand struct{ oneInstance }

func (c resumeCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "resume", func(d *client.Client) (instance.Instance, error) { return d.Resume(ctx, c.Instance) })
}

type standbyCommand struct{ oneInstance }

func (c standbyCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "standby", func(d *client.Client) (instance.Instance, error) { return d.Standby(ctx, c.Instance) })
}

// restoreFlags say how to restore.
type restoreFlags struct {
	Backend string `enum:",file,uffd,auto" default:"" help:"Where the memory comes from: file, uffd or auto; default is what the daemon is configured for."`
	Paused  bool   `help:"Leave the guest paused."`
}

func (f restoreFlags) request() instance.RestoreRequest {
	return instance.RestoreRequest{Backend: instance.Backend(f.Backend), Paused: f.Paused}
}

type restoreCommand struct {
	oneInstance
	restoreFlags
}

func (c restoreCommand) Run(ctx context.Context, s streams) error {
	return c.change(s, "restore", func(d *client.Client) (instance.Instance, error) {
		return d.Restore(ctx, c.Instance, c.request())
	})
}

type inspectCommand struct{ oneInstance }

func (c inspectCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "inspect", func(d *client.Client) error {
		found, err := d.Instance(ctx, c.Instance)
		return printFound(s, c.JSON, found, err, instanceRows)
	})
}

type psCommand struct{ listFlags }

func (c psCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "list instances", func(d *client.Client) error {
		list, err := d.Instances(ctx)
		return c.print(s, api.Instances{Instances: list}, err, instanceTable(list))
	})
}

// deleteFlags are those of a command that deletes.
type deleteFlags struct {
	daemonAddress
	IfExists bool `help:"That there is no such one is no error."`
	JSON     bool `name:"json" help:"Print JSON."`
}

// delete deletes as many as it can.
func (f deleteFlags) delete(s streams, kind string, refs []string, remove func(c *client.Client, ref string) (bool, error)) error {
	return f.ask(s, "delete", func(c *client.Client) error {
		gone, errs := []string{}, []error(nil)
		for _, ref := range refs {
			deleted, err := remove(c, ref)
			switch {
			case err != nil:
				errs = append(errs, err)
			case deleted:
				gone = append(gone, ref)
			case !f.IfExists:
				errs = append(errs, missing(kind, ref))
			}
		}
		if f.JSON {
			return errors.Join(append(errs, printJSON(s, map[string][]string{"deleted": gone}))...)
		}
		for _, ref := range gone {
			fmt.Fprintf(s.out, "%s deleted\n", ref)
		}
		return errors.Join(errs...)
	})
}

type deleteCommand struct {
	deleteFlags
	Instances []string `arg:"" complete:"instance" help:"The instances: names, ids, or beginnings of ids."`
}

func (c deleteCommand) Run(ctx context.Context, s streams) error {
	return c.delete(s, "instance", c.Instances, func(d *client.Client, ref string) (bool, error) { return d.Delete(ctx, ref) })
}

type waitCommand struct {
	oneInstance
	For     []string      `enum:"stopped,starting,running,paused,standby,stopping,failed,unknown" help:"The states to wait for, separated by commas. Without any: until the instance no longer exists."`
	Timeout time.Duration `help:"Give up after this long; default is never."`
}

func (c waitCommand) Run(ctx context.Context, s streams) error {
	what := "its end"
	var states []instance.State
	for _, state := range c.For {
		states = append(states, instance.State(state))
		what = strings.Join(c.For, " or ")
	}
	return c.ask(s, "wait for "+what, func(d *client.Client) error {
		waited, err := d.Wait(ctx, c.Instance, c.Timeout, states...)
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(s, waited)
		case waited.Gone:
			_, err = fmt.Fprintf(s.out, "%s is gone\n", c.Instance)
			return err
		}
		return printInstance(s, *waited.Instance, false)
	})
}
