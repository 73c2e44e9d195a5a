package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/internal/daemon"
	"github.com/faultline-vm/faultline/internal/sdnotify"
)

type daemonCommand struct {
	Config    string `type:"path" help:"The configuration, see faultline config sample; without it all is as there, or as the environment says."`
	LogFormat string `enum:"text,json" default:"text" help:"The form of the log on standard error: text or json."`
}

func (c daemonCommand) Run(ctx context.Context, s streams) error {
	loaded, err := config.Load(c.Config, os.Environ())
	if err != nil {
		return err
	}
	var handler slog.Handler = slog.NewTextHandler(s.err, nil)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(s.err, nil)
	}
	configured, err := daemon.Configure(ctx, loaded, version, slog.New(handler))
	if err != nil {
		return err
	}
	configured.Reload = func() (config.Config, error) { return config.Load(c.Config, os.Environ()) }
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	configured.Hangups = hangups
	if configured.Notify, err = sdnotify.New(os.Getenv); err != nil {
		return err
	}
	return daemon.Run(ctx, configured)
}

type configCommand struct {
	Check  configCheckCommand  `cmd:"" help:"Report every fault of a configuration at once."`
	Sample configSampleCommand `cmd:"" help:"Print a configuration with every key, its default and what it means."`
	Reload configReloadCommand `cmd:"" help:"Have the daemon read its configuration again; a changed backend concerns restores from then on."`
}

type configCheckCommand struct {
	File string `arg:"" optional:"" type:"path" help:"The file; without one the environment alone is checked."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// checked is the JSON form of a check.
type checked struct {
	Valid  bool           `json:"valid"`
	Faults []checkedFault `json:"faults"`
}

type checkedFault struct {
	Line     int    `json:"line,omitempty"`
	Key      string `json:"key,omitempty"`
	Variable string `json:"variable,omitempty"`
	Message  string `json:"message"`
}

func (c configCheckCommand) Run(s streams) error {
	_, err := config.Load(c.File, os.Environ())
	var faulty *config.Error
	if err != nil && !errors.As(err, &faulty) {
		return err
	}
	if c.JSON {
		answer := checked{Valid: err == nil, Faults: []checkedFault{}}
		if faulty != nil {
			for _, f := range faulty.Faults {
				answer.Faults = append(answer.Faults, checkedFault(f))
			}
		}
		return errors.Join(printJSON(s, answer), err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, "the configuration is valid")
	return err
}

type configReloadCommand struct {
	daemonAddress
	JSON bool `name:"json" help:"Print JSON."`
}

func (c configReloadCommand) Run(ctx context.Context, s streams) error {
	return c.ask(s, "reload", func(d *client.Client) error {
		answer, err := d.Reload(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, answer)
		}
		for _, key := range answer.Applied {
			fmt.Fprintf(s.out, "%s: changed\n", key)
		}
		for _, key := range answer.Restart {
			fmt.Fprintf(s.out, "%s: waits for a restart of the daemon\n", key)
		}
		if len(answer.Applied)+len(answer.Restart) == 0 {
			fmt.Fprintln(s.out, "nothing has changed")
		}
		return nil
	})
}

type configSampleCommand struct{}

func (configSampleCommand) Run(s streams) error {
	_, err := s.out.Write(config.Sample())
	return err
}
