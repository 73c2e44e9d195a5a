package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

// oneInstance are the arguments of a command about one instance.
type oneInstance struct {
	daemonAddress
	Instance string `arg:"" complete:"instance" help:"The instance: its name, its id, or the beginning of the id."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// change asks for something that leads to another state, and prints where it led.
func (o oneInstance) change(s streams, step string, fn func(*client.Client) (instance.Instance, error)) error {
	var after instance.Instance
	err := o.ask(s, step+" "+o.Instance, func(c *client.Client) (err error) {
		after, err = fn(c)
		return err
	})
	if err != nil {
		return err
	}
	return printInstance(s, after, o.JSON)
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
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, found)
		}
		return describeInstance(s, found)
	})
}

type psCommand struct {
	daemonAddress
	Quiet bool `short:"q" help:"Print names only."`
	JSON  bool `name:"json" help:"Print JSON."`
}

func (c psCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "list instances", func(d *client.Client) error {
		list, err := d.Instances(ctx)
		if err != nil {
			return err
		}
		return printInstances(s, list, c.Quiet, c.JSON)
	})
}

type deleteCommand struct {
	daemonAddress
	Instances []string `arg:"" complete:"instance" help:"The instances: names, ids, or beginnings of ids."`
	IfExists  bool     `help:"That there is no such instance is no error."`
	JSON      bool     `name:"json" help:"Print JSON."`
}

func (c deleteCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "delete", func(d *client.Client) error {
		return deleteAll(s, c.Instances, c.IfExists, c.JSON, "instance", func(ref string) (bool, error) { return d.Delete(ctx, ref) })
	})
}

// deleteAll deletes as many as it can.
func deleteAll(s streams, refs []string, ifExists, asJSON bool, kind string, remove func(ref string) (bool, error)) error {
	gone, errs := []string{}, []error(nil)
	for _, ref := range refs {
		deleted, err := remove(ref)
		switch {
		case err != nil:
			errs = append(errs, err)
		case deleted:
			gone = append(gone, ref)
		case !ifExists:
			errs = append(errs, missing(kind, ref))
		}
	}
	if asJSON {
		errs = append(errs, printJSON(s, map[string][]string{"deleted": gone}))
	} else {
		for _, ref := range gone {
			fmt.Fprintf(s.out, "%s deleted\n", ref)
		}
	}
	return errors.Join(errs...)
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
