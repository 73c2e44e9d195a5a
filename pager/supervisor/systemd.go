package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
)

const (
	// managerRunning exists exactly if systemd is the service manager, sd_booted(3).
	managerRunning = "/run/systemd/system"
	// dataDirVariable is how the unit names its data directory.
	dataDirVariable = "FAULTLINE_DATA_DIR="
)

// UnitName returns the name of the unit that runs a version of the pager.
func UnitName(version string) string { return "faultline-pager@" + version + ".service" }

// unitLauncher runs the pager as a unit of systemd.
//
// systemd restarts the unit itself, at once, a limited number of times. The
// supervisor waits for that and adds what systemd lacks: a delay that grows, and
// another round after systemd has given up.
type unitLauncher struct {
	unit    string
	timeout time.Duration
	socket  string
	client  *client.Client
}

// findUnit returns a launcher for the unit of o's version. The error says why
// systemd does not run the pager of this version and data directory.
func findUnit(ctx context.Context, o Options) (*unitLauncher, error) {
	if _, err := os.Stat(managerRunning); err != nil {
		return nil, fmt.Errorf("systemd does not manage this host: %w", err)
	}
	u := &unitLauncher{unit: UnitName(o.Version), timeout: o.StartTimeout}
	properties, err := u.show(ctx, "LoadState", "Environment", "ExecStart")
	if err != nil {
		return nil, err
	}
	if state := properties["LoadState"]; state != "loaded" {
		return nil, fmt.Errorf("the unit %s is %s; install it with make install, then run systemctl daemon-reload", u.unit, state)
	}
	if !slices.Contains(strings.Fields(properties["Environment"]), dataDirVariable+o.DataDir) {
		return nil, fmt.Errorf("the unit %s serves another data directory than %s (%s); set %s%s in a drop-in of the unit", u.unit, o.DataDir, properties["Environment"], dataDirVariable, o.DataDir)
	}
	program := programOf(properties["ExecStart"])
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("the program of the unit %s: %w; install the pager of that version", u.unit, err)
	}
	u.socket = pager.ControlSocket(o.DataDir, o.Version)
	u.client = client.New(u.socket)
	return u, nil
}

// programOf returns the path in the property ExecStart, which systemctl writes as
// "{ path=/usr/… ; argv[]=… }".
func programOf(execStart string) string {
	_, rest, _ := strings.Cut(execStart, "path=")
	path, _, _ := strings.Cut(rest, " ;")
	return path
}

func (u *unitLauncher) launch(ctx context.Context) (*running, error) {
	properties, err := u.show(ctx, "ActiveState")
	if err != nil {
		return nil, err
	}
	if properties["ActiveState"] == "failed" {
		// Else systemd would count earlier starts and refuse this one. Whether that
		// was forgotten already, the start will show.
		_, _ = systemctl(ctx, "reset-failed", u.unit)
	}
	// Of a unit that runs, or that is being restarted, this waits for the start.
	if _, err := systemctl(ctx, "start", u.unit); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		r, err := find(wait, u.client)
		if err == nil {
			return r, nil
		}
		select {
		case <-wait.Done():
			return nil, fmt.Errorf("the pager of %s does not answer: %w; see %s", u.unit, err, u.log())
		case <-tick.C:
		}
	}
}

// finished waits until systemd has noticed the end as well, and asks it. The pager
// need not have been the unit's, it may have been somebody's child before the unit
// was installed; so the socket must be gone as well.
func (u *unitLauncher) finished(ctx context.Context, r *running) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	for {
		properties, err := u.show(ctx, "ActiveState", "Result", "MainPID")
		if err != nil {
			return false, err
		}
		state := properties["ActiveState"]
		if properties["MainPID"] != strconv.Itoa(r.pid) && state != "deactivating" {
			if state != "inactive" || properties["Result"] != "success" {
				return false, nil
			}
			return socketGone(u.socket)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("systemd takes %s for running, but its process %d has ended: %w", u.unit, r.pid, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

func (u *unitLauncher) log() string { return "journalctl -u " + u.unit }
func (u *unitLauncher) close()      { u.client.Close() }

// beats: systemd listens itself (WatchdogSec= in the unit).
func (u *unitLauncher) beats() int64 { return 0 }

// show returns properties of the unit.
func (u *unitLauncher) show(ctx context.Context, names ...string) (map[string]string, error) {
	output, err := systemctl(ctx, "show", "--property="+strings.Join(names, ","), u.unit)
	if err != nil {
		return nil, err
	}
	properties := make(map[string]string, len(names))
	for line := range strings.Lines(output) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			properties[name] = value
		}
	}
	return properties, nil
}

// systemctl asks the service manager, never the user for a password.
func systemctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "systemctl", append([]string{"--no-ask-password"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), errors.Join(err, errors.New(strings.TrimSpace(stderr.String()))))
	}
	return stdout.String(), nil
}
