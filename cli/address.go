package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/daemon"
	"github.com/faultline-vm/faultline/internal/progress"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// defaultDataDir is where a daemon is looked for that nobody named.
const defaultDataDir = "/var/lib/faultline"

// Environment variables that name a daemon.
const (
	envDataDir = "FAULTLINE_DATA_DIR"
	envSocket  = "FAULTLINE_API_SOCKET"
)

// daemonAddress says which daemon is asked.
type daemonAddress struct {
	Socket  string `env:"FAULTLINE_API_SOCKET" help:"The daemon's socket; default is faultline.sock in the data directory."`
	DataDir string `env:"FAULTLINE_DATA_DIR" help:"The data directory that the daemon manages; default is /var/lib/faultline."`
}

// socket takes an empty variable of the environment for one that is not set.
func (a daemonAddress) socket() string {
	switch {
	case a.Socket != "":
		return a.Socket
	case a.DataDir != "":
		return filepath.Join(a.DataDir, daemon.SocketName)
	}
	return filepath.Join(defaultDataDir, daemon.SocketName)
}

// ask calls fn with a client of the daemon. What takes longer than a second shows
// its progress, if a person is looking.
func (a daemonAddress) ask(s streams, step string, fn func(*client.Client) error) error {
	c := client.New(a.socket())
	defer c.Close()
	if progress.IsTerminal(s.err) {
		bar := progress.Start(s.err, step)
		defer bar.Stop()
		c = c.Reporting(func(p api.Progress) { bar.Set(p.Step, p.Done, p.Total) })
	}
	return explain(fn(c))
}

// change asks for something that leads an instance to another state, and prints where
// it led.
func (a daemonAddress) change(s streams, step string, asJSON bool, fn func(*client.Client) (instance.Instance, error)) error {
	var after instance.Instance
	err := a.ask(s, step, func(c *client.Client) (err error) {
		after, err = fn(c)
		return err
	})
	if err != nil {
		return err
	}
	return printInstance(s, after, asJSON)
}

// explain says what to do about a daemon that cannot be asked.
func explain(err error) error {
	switch {
	case errors.Is(err, client.ErrNoDaemon):
		return fmt.Errorf("%w; start one with faultline daemon --config FILE, or name its socket with --socket or %s", err, envSocket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; become root or a member of the socket's group", err)
	}
	return err
}

// exitCode tells errors of the daemon apart for scripts.
func exitCode(err error) int {
	var p *api.Problem
	switch {
	case errors.Is(err, client.ErrNoDaemon):
		return exitNoDaemon
	case !errors.As(err, &p):
		return exitFailed
	case p.Code == instance.CodeNotFound, p.Code == fleet.CodeNoSession:
		return exitNotFound
	case p.Code == "timeout":
		return exitTimeout
	case p.Status == 409:
		return exitConflict
	}
	return exitFailed
}

// daemonNames lists what the daemon knows, for completion. Words are those of the
// unfinished command line: they may name the daemon.
func daemonNames(ctx context.Context, words []string, kind string) (names []string) {
	a := daemonAddress{Socket: os.Getenv(envSocket), DataDir: os.Getenv(envDataDir)}
	for i, word := range words {
		flag, value, joined := strings.Cut(word, "=")
		if !joined && i+1 < len(words) {
			value = words[i+1]
		}
		switch flag {
		case "--socket":
			a.Socket = value
		case "--data-dir":
			a.DataDir = value
		}
	}
	c := client.New(a.socket())
	defer c.Close()
	// Without a daemon there is nothing to offer, and no place to say so.
	if kind == "snapshot" {
		list, _ := c.Snapshots(ctx)
		for _, one := range list {
			names = append(names, one.Name)
		}
		return names
	}
	list, _ := c.Instances(ctx)
	for _, one := range list {
		names = append(names, one.Name)
	}
	return names
}
