package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/progress"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/fleet"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// pagers is who knows the pagers of a data directory: its daemon, or where none runs
// the directory itself.
type pagers interface {
	Pagers(ctx context.Context) ([]fleet.Pager, error)
	UpgradePager(ctx context.Context, version string) (fleet.Upgraded, error)
	DrainPager(ctx context.Context, version string) (fleet.Pager, error)
	DetachSession(ctx context.Context, ref string) (fleet.Detached, error)
}

// askPagers calls fn with the daemon's pagers, or without a daemon with those that
// answer on their control sockets. Binary is a program of the pager; a daemon is not
// told to run it.
func (a daemonAddress) askPagers(ctx context.Context, s streams, step, binary string, fn func(pagers) error) error {
	c := client.New(a.socket())
	defer c.Close()
	_, err := c.Health(ctx)
	if err == nil && binary != "" {
		return errors.New("a daemon runs and finds the pager's programs itself: install that version with make install, and leave --binary out")
	}
	var report api.Report
	if progress.IsTerminal(s.err) {
		bar := progress.Start(s.err, step)
		defer bar.Stop()
		report = func(p api.Progress) { bar.Set(p.Step, p.Done, p.Total) }
		c = c.Reporting(report)
	}
	if !errors.Is(err, client.ErrNoDaemon) {
		if err == nil {
			err = fn(c)
		}
		return explain(err)
	}
	dir := a.DataDir
	if dir == "" {
		dir = defaultDataDir
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	return explain(fn(localPagers{dir, binary, report}))
}

// localPagers are the pagers of a data directory without a daemon.
type localPagers struct {
	dataDir string
	binary  string     // a program of the pager, or empty
	report  api.Report // or nil
}

func (l localPagers) Pagers(ctx context.Context) ([]fleet.Pager, error) {
	return fleet.List(ctx, l.dataDir)
}

func (l localPagers) DrainPager(ctx context.Context, version string) (fleet.Pager, error) {
	return fleet.Drain(ctx, l.dataDir, version)
}

func (l localPagers) DetachSession(ctx context.Context, ref string) (fleet.Detached, error) {
	return fleet.Detach(ctx, l.dataDir, ref, func(given uint64) {
		if l.report != nil {
			l.report(api.Progress{Step: "detach: " + humanize.IBytes(given) + " are in the guest"})
		}
	})
}

// UpgradePager leaves pagers that it starts to themselves, as a daemon that ends does.
func (l localPagers) UpgradePager(ctx context.Context, version string) (fleet.Upgraded, error) {
	open := instance.Supervised(supervisor.Config{Options: supervisor.Options{DataDir: l.dataDir}},
		func(ctx context.Context, version string) (string, error) {
			return fleet.Program(ctx, l.binary, version)
		})
	start := func(ctx context.Context, version string) error {
		life, release := context.WithCancel(ctx)
		defer release()
		_, err := open(life, version)
		return err
	}
	return fleet.Upgrade(ctx, l.dataDir, version, start, func(done, total int) {
		if l.report != nil {
			l.report(api.Progress{Step: "hand sessions over", Done: int64(done), Total: int64(total)})
		}
	})
}

type pagerLsCommand struct {
	daemonAddress
	JSON bool `name:"json" help:"Print JSON instead of a table."`
}

func (c pagerLsCommand) Run(ctx context.Context, s streams) error {
	return c.askPagers(ctx, s, "list pagers", "", func(p pagers) error {
		list, err := p.Pagers(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, api.Pagers{Pagers: append([]fleet.Pager{}, list...)})
		}
		table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "VERSION\tCURRENT\tSTATUS\tSESSIONS\tPID\tUPTIME\tREASON")
		for _, one := range list {
			current, pid, uptime := "", "-", "-"
			if one.Current {
				current = "yes"
			}
			if one.PID != 0 {
				pid = fmt.Sprint(one.PID)
				uptime = age(time.Now().Add(-time.Duration(one.UptimeMS) * time.Millisecond))
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", one.Version, current, one.Status, one.Sessions, pid, uptime, one.Reason)
		}
		return table.Flush()
	})
}

type pagerUpgradeCommand struct {
	daemonAddress
	To     string `placeholder:"VERSION" help:"The version that takes the sessions; default is the one that this program was built with, or that of --binary."`
	Binary string `type:"existingfile" placeholder:"FILE" help:"The program of that version, if it is not installed. Without a daemon only."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

func (c pagerUpgradeCommand) Run(ctx context.Context, s streams) error {
	version := c.To
	if version == "" {
		version = pager.Version()
		if c.Binary != "" {
			var err error
			if version, err = fleet.ProgramVersion(ctx, c.Binary); err != nil {
				return err
			}
		}
	}
	return c.askPagers(ctx, s, "upgrade to the pager "+version, c.Binary, func(p pagers) error {
		done, err := p.UpgradePager(ctx, version)
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(s, done)
		} else {
			_, err = fmt.Fprintln(s.out, upgraded(done))
		}
		return errors.Join(err, kept(done))
	})
}

// upgraded says what an upgrade has done.
func upgraded(u fleet.Upgraded) string {
	text := fmt.Sprintf("new sessions go to the pager %s; %d sessions were handed over to it", u.Version, u.HandedOver)
	if len(u.Ended) > 0 {
		text += "; ended: " + strings.Join(u.Ended, ", ")
	}
	return text
}

// kept says which sessions were not handed over, if any.
func kept(u fleet.Upgraded) error {
	var errs []error
	for _, k := range u.Kept {
		what := "session " + k.Session
		if k.Session == "" {
			what = "what it has"
		}
		errs = append(errs, fmt.Errorf("%s stays at the pager %s: %s", what, k.Version, k.Reason))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("these go on where they are; mend it and run the command again"))
	}
	return errors.Join(errs...)
}

type pagerDrainCommand struct {
	daemonAddress
	PagerVersion string `help:"The version of the pager; default is the one that new sessions go to."`
	JSON         bool   `name:"json" help:"Print JSON."`
}

func (c pagerDrainCommand) Run(ctx context.Context, s streams) error {
	return c.askPagers(ctx, s, "drain", "", func(p pagers) error {
		version := c.PagerVersion
		if version == "" {
			list, err := p.Pagers(ctx)
			if err != nil {
				return err
			}
			version = pager.Version()
			for _, one := range list {
				if one.Current {
					version = one.Version
				}
			}
		}
		drained, err := p.DrainPager(ctx, version)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, drained)
		}
		_, err = fmt.Fprintf(s.out, "pager %s, process %d, is draining: %d sessions left\n", drained.Version, drained.PID, drained.Sessions)
		return err
	})
}

type pagerDetachCommand struct {
	daemonAddress
	Session string `arg:"" complete:"instance" help:"The session's id; with a daemon also the instance that has it."`
	JSON    bool   `name:"json" help:"Print JSON."`
}

func (c pagerDetachCommand) Run(ctx context.Context, s streams) error {
	return c.askPagers(ctx, s, "detach "+c.Session, "", func(p pagers) error {
		done, err := p.DetachSession(ctx, c.Session)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s, done)
		}
		_, err = fmt.Fprintf(s.out, "session %s is over: process %d has all of its %s and runs on without the pager %s\n",
			done.Session, done.VMMPID, humanize.IBytes(done.MemoryBytes), done.Pager)
		return err
	})
}
