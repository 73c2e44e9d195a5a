package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
)

// Config says which pager to keep running, and how.
type Config struct {
	Options
	// Manager says what runs the pager; "" means Auto. Binary, CacheMaxBytes and
	// Log are not used where systemd runs it: the unit says them.
	Manager Manager
	// Restart bounds restarts.
	Restart Restart
	// Watchdog is how long a child pager may give no sign of life until it is killed
	// and started again; 0 means DefaultWatchdog, and a negative value means for ever. The unit
	// says it where systemd runs the pager.
	Watchdog time.Duration
	// Logger receives starts, deaths and the end of the supervision. Nil discards.
	Logger *slog.Logger
}

// Manager is what runs a pager.
type Manager string

// The managers.
const (
	// Auto means Systemd where faultline-pager@.service is installed for the data
	// directory and has a program of the version, else Child.
	Auto Manager = ""
	// Child runs the pager as a child process.
	Child Manager = "child"
	// Systemd runs the pager as faultline-pager@<version>.service.
	Systemd Manager = "systemd"
)

// State is what a Supervisor does at a moment:
//
//	          ┌───────── found, or started and answers ──────────┐
//	starting ─┴▶ watching ─── died ──▶ waiting ── delay over ──▶ starting
//	                │                     │                        │
//	                │ ended by itself     │ too many deaths        │ too many deaths
//	                ▼                     ▼                        ▼
//	             stopped               gave-up                  gave-up
//
//	any of the first three ── context over ──▶ released
//
// The delay of the first death is zero. A pager that is stopping and dies is
// started again like any other, and drained again: it still has guests. The last
// three are final; the pager of a released supervisor runs on.
type State string

// The states of a Supervisor.
const (
	Starting State = "starting"
	Watching State = "watching"
	Waiting  State = "waiting"
	Stopped  State = "stopped"
	GaveUp   State = "gave-up"
	Released State = "released"
)

// Status describes a Supervisor.
type Status struct {
	State    State
	PID      int // of the pager that answered last
	Restarts int // pagers that took the place of a dead one
}

// GaveUpError says that a pager died too often. Its guests stand still until a
// pager of its version runs.
type GaveUpError struct {
	Version string
	Deaths  int
	Window  time.Duration
	Log     string
	Err     error // of the last start; nil if the pager started and died later
}

func (e *GaveUpError) Error() string {
	text := fmt.Sprintf("the pager %s died %d times within %v and is not started again; look into its log %s, then supervise it anew", e.Version, e.Deaths, e.Window, e.Log)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *GaveUpError) Unwrap() error { return e.Err }

// Supervisor keeps the pager of one version and data directory running. Its Client
// reaches whichever pager runs; while none does, requests fail.
type Supervisor struct {
	*client.Client
	cfg      Config
	launcher launcher
	deaths   deaths // of the supervising goroutine
	over     chan struct{}
	err      error // read it after over is closed

	mu     sync.Mutex
	status Status // protected by mu
}

// Supervise finds the pager of a version or starts it, and keeps it running. It
// returns when the pager answers. The end of ctx ends the supervision and leaves
// the pager alone; Stop drains it.
//
// A start that fails is repeated twice, since another supervisor may have been
// faster; then it is an error.
func Supervise(ctx context.Context, cfg Config) (*Supervisor, error) {
	if err := cfg.Restart.validate(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("data directory %q is not absolute", cfg.DataDir)
	}
	cfg.Options, cfg.Restart = cfg.Options.withDefaults(), cfg.Restart.withDefaults()
	if cfg.Watchdog == 0 {
		cfg.Watchdog = DefaultWatchdog
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("pager", cfg.Version)
	s := &Supervisor{
		Client: client.New(pager.ControlSocket(cfg.DataDir, cfg.Version)), cfg: cfg,
		deaths: deaths{Restart: cfg.Restart}, over: make(chan struct{}),
		status: Status{State: Starting},
	}
	found, err := find(ctx, s.Client)
	if err == nil {
		cfg.Logger.Info("found the pager", "pid", found.pid)
	}
	if s.launcher, err = s.chooseLauncher(ctx, found); err != nil {
		if found != nil {
			found.release()
		}
		return nil, err
	}
	first := deaths{Restart: Restart{MinDelay: cfg.Restart.MinDelay, MaxDelay: cfg.Restart.MaxDelay, Window: time.Hour, Limit: 3}}
	if found == nil {
		if found, err = s.start(ctx, &first); err != nil {
			s.launcher.close()
			var gaveUp *GaveUpError
			if errors.As(err, &gaveUp) {
				err = gaveUp.Err
			}
			return nil, err
		}
	}
	s.watching(found, false)
	go s.run(ctx, found)
	return s, nil
}

// chooseLauncher decides what runs the pager. Found is the one that runs, or nil.
func (s *Supervisor) chooseLauncher(ctx context.Context, found *running) (launcher, error) {
	if s.cfg.Manager != Child {
		unit, err := findUnit(ctx, s.cfg.Options)
		if err == nil {
			return unit, nil
		}
		if s.cfg.Manager == Systemd {
			return nil, err
		}
		s.cfg.Logger.Debug("the pager is a child process", "reason", err)
	}
	e, err := openExecutable(ctx, s.cfg.Binary, s.cfg.Version)
	if err != nil && found != nil {
		s.cfg.Logger.Warn("using the running pager's own program", "reason", err)
		e, err = executableOf(found.pid)
	}
	if err != nil {
		return nil, err
	}
	return newChildLauncher(s.cfg, e)
}

// run is the supervising goroutine.
func (s *Supervisor) run(ctx context.Context, r *running) {
	state, err := s.supervise(ctx, r)
	s.launcher.close()
	s.Client.Close()
	s.setState(state)
	s.err = err
	s.cfg.Logger.Info("supervision ends", "state", state)
	close(s.over)
}

func (s *Supervisor) supervise(ctx context.Context, r *running) (State, error) {
	for {
		if !s.watch(ctx, r) {
			r.release()
			return Released, nil
		}
		// Connections to the dead process are of no use.
		s.Client.Close()
		finished, err := s.launcher.finished(ctx, r)
		if finished {
			return Stopped, nil
		}
		s.cfg.Logger.Warn("the pager died", "pid", r.pid, "error", err)
		if err = s.pause(ctx, &s.deaths, nil); err == nil {
			r, err = s.start(ctx, &s.deaths)
		}
		if err != nil {
			if ctx.Err() != nil {
				return Released, nil
			}
			return GaveUp, err
		}
		s.watching(r, true)
	}
}

// start brings a pager up, or takes one that somebody else has started meanwhile.
// Each start that fails counts as a death.
func (s *Supervisor) start(ctx context.Context, d *deaths) (*running, error) {
	for {
		s.setState(Starting)
		if r, err := find(ctx, s.Client); err == nil {
			r.beats = s.launcher.beats()
			s.cfg.Logger.Info("found the pager", "pid", r.pid)
			return r, nil
		}
		r, err := s.launcher.launch(ctx)
		if err == nil {
			s.cfg.Logger.Info("started the pager", "pid", r.pid)
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		s.cfg.Logger.Warn("the pager did not start", "error", err)
		if err := s.pause(ctx, d, err); err != nil {
			return nil, err
		}
	}
}

// pause counts a death and waits for as long as that asks for.
func (s *Supervisor) pause(ctx context.Context, d *deaths, reason error) error {
	delay, ok := d.add(time.Now())
	if !ok {
		return &GaveUpError{Version: s.cfg.Version, Deaths: len(d.times), Window: d.Window, Log: s.launcher.log(), Err: reason}
	}
	if delay == 0 {
		return ctx.Err()
	}
	s.setState(Waiting)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// watching notes a pager that answers.
func (s *Supervisor) watching(r *running, restarted bool) {
	s.mu.Lock()
	s.status.State, s.status.PID = Watching, r.pid
	if restarted {
		s.status.Restarts++
	}
	s.mu.Unlock()
}

func (s *Supervisor) setState(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.State = state
}

// Status describes the supervisor at this moment.
func (s *Supervisor) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// PID returns the number of the pager's process that answered last.
func (s *Supervisor) PID() int { return s.Status().PID }

// Over is closed when the supervision has ended, and Err is known.
func (s *Supervisor) Over() <-chan struct{} { return s.over }

// Err returns why the supervision ended: a *GaveUpError, or nil after a drain or
// the end of the context. Wait for Over first.
func (s *Supervisor) Err() error {
	<-s.over
	return s.err
}

// Stop drains the pager and waits until it has ended, which it does after its last
// session. When ctx ends first, the pager runs on and stays supervised; it takes no
// new sessions. After the end of the supervision nothing is drained any more.
func (s *Supervisor) Stop(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for drained := 0; ; {
		select {
		case <-s.over:
			return s.stopped()
		default:
		}
		// A pager that took the place of a dead one must be asked again.
		if pid := s.PID(); pid != drained {
			if h, err := s.Drain(ctx); err == nil {
				drained = h.PID
			}
			s.Client.Close()
		}
		select {
		case <-s.over:
		case <-ctx.Done():
			return fmt.Errorf("the pager %s still has sessions and goes on serving them: %w", s.cfg.Version, ctx.Err())
		case <-tick.C:
		}
	}
}

func (s *Supervisor) stopped() error {
	if s.Status().State == Released {
		return errors.Join(s.err, errors.New("the supervision has ended; drain the pager through its control socket"))
	}
	return s.err
}
