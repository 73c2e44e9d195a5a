package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// daemon is `faultline daemon` with a data directory of its own.
type daemon struct {
	program  string // faultline
	config   string // path
	kernel   string // path; the simulator runs none, but an instance needs one
	log      string // path
	dataDir  string
	restores int // at the same time, as configured
	client   *client.Client
	process  *exec.Cmd // nil when it does not run
}

// newDaemon prepares a daemon that does not run yet.
func (r *run) newDaemon() (*daemon, error) {
	program := r.ManagerBinary
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	pager, err := supervisor.FindBinary(r.PagerBinary)
	if err != nil {
		return nil, err
	}
	c := config.Default()
	c.DataDir = filepath.Join(r.dir, "manager")
	c.Hypervisor.Prefer, c.Hypervisor.SimulatorBinary = "fcsim", r.SimulatorBinary
	c.Hypervisor.FirecrackerUffdCacheMaxBytes = 64 << 20
	c.Pager.Binary, c.Pager.Manager = pager, "child"
	d := &daemon{
		program: program, dataDir: c.DataDir, restores: c.Hypervisor.FirecrackerMaxConcurrentRestores,
		config: filepath.Join(r.dir, "config.yaml"), kernel: filepath.Join(r.dir, "kernel"), log: filepath.Join(r.dir, "daemon.log"),
		client: client.New(c.SocketPath()),
	}
	return d, errors.Join(os.WriteFile(d.config, c.Encode(), 0o600), os.WriteFile(d.kernel, []byte("none"), 0o600))
}

// start starts the daemon and returns the time until it answered.
func (d *daemon) start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	process := exec.Command(d.program, "daemon", "--config", d.config)
	process.Stderr = log
	began := time.Now()
	if err := process.Start(); err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	d.process = process
	for {
		_, err := d.client.Health(ctx)
		took := time.Since(began)
		switch {
		case err == nil:
			return took, nil
		case !errors.Is(err, client.ErrNoDaemon):
			return 0, errors.Join(err, d.kill())
		case took > daemonPatience:
			text, _ := os.ReadFile(d.log)
			return 0, errors.Join(fmt.Errorf("the daemon does not answer after %v; its log: %s", took, text), d.kill())
		}
		time.Sleep(time.Millisecond)
	}
}

// daemonPatience is how long a start or an end may take before it counts as failed.
const daemonPatience = 30 * time.Second

// stop ends the daemon in peace.
func (d *daemon) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	process := d.process
	kill := context.AfterFunc(ctx, func() { _ = process.Process.Kill() })
	defer kill()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end the daemon: %w", err)
	}
	d.client.Close()
	d.process = nil
	if err := process.Wait(); err != nil {
		return fmt.Errorf("the daemon: %w", err)
	}
	return nil
}

func (d *daemon) kill() error {
	process := d.process
	d.process = nil
	return errors.Join(process.Process.Kill(), ignoreExit(process.Wait()))
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// end deletes all instances, so that no VMM lives on, and ends the daemon.
func (d *daemon) end() (err error) {
	if d.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*daemonPatience)
	defer cancel()
	list, err := d.client.Instances(ctx)
	for _, i := range list {
		if i.PID != 0 {
			_, deleteErr := d.client.Delete(ctx, i.ID)
			err = errors.Join(err, deleteErr)
		}
	}
	return errors.Join(err, d.stop(ctx))
}

// ps runs the command and checks that it lists so many instances. It returns what the
// run took.
func (d *daemon) ps(ctx context.Context, want int) (time.Duration, error) {
	ps := exec.CommandContext(ctx, d.program, "ps", "--json", "--data-dir", d.dataDir)
	var out, errs bytes.Buffer
	ps.Stdout, ps.Stderr = &out, &errs
	began := time.Now()
	if err := ps.Run(); err != nil {
		return 0, fmt.Errorf("faultline ps: %w: %s", err, errs.Bytes())
	}
	took := time.Since(began)
	var list api.Instances
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		return 0, fmt.Errorf("faultline ps: %w", err)
	}
	if len(list.Instances) != want {
		return 0, fmt.Errorf("faultline ps lists %d instances instead of %d", len(list.Instances), want)
	}
	return took, nil
}

// largest returns the most memory that the daemon ever had resident, in bytes.
func (d *daemon) largest() uint64 {
	return kibibytes(field(proc(strconv.Itoa(d.process.Process.Pid)+"/status"), "VmHWM"))
}

// errFound ends the reading of a log.
var errFound = errors.New("found")

// reportSeeker reads a guest's console until a report of a kind.
type reportSeeker struct {
	kind   guest.Kind
	rest   []byte
	report guest.Report
	found  bool
}

// Write takes a part of the console.
func (s *reportSeeker) Write(text []byte) (int, error) {
	s.rest = append(s.rest, text...)
	for {
		line, rest, whole := bytes.Cut(s.rest, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		s.rest = rest
		report, ours, err := guest.ParseReport(string(line))
		if err != nil {
			return 0, err
		}
		if ours && report.Kind == s.kind {
			s.report, s.found = report, true
			return 0, errFound
		}
	}
}
