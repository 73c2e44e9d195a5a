package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// place is where the pagers of one version serve the sessions of a cell, one after
// the other: each takes the place of a dead one.
type place struct {
	*client.Client // of whichever pager serves there
	dir            string
	options        supervisor.Options
	files          int // that a pager has open without sessions
	// last is the pager that was started here by hand last, supervisor what
	// watches it and starts its successors, nil while nobody does.
	last       *supervisor.Process
	supervisor atomic.Pointer[supervisor.Supervisor]
	release    context.CancelFunc // ends the supervision
}

// open starts the first pager of a place. It is not supervised yet, and its
// successors will have no failpoints.
func open(ctx context.Context, p program, dataDir, failpoints string) (*place, error) {
	pl := &place{
		Client:  client.New(pager.ControlSocket(dataDir, p.version)),
		dir:     pager.Dir(dataDir, p.version),
		options: supervisor.Options{Binary: p.binary, Version: p.version, DataDir: dataDir},
	}
	if err := pl.start(ctx, failpoints); err != nil {
		return nil, err
	}
	// The pager closes the connection of its start when it comes to it.
	for range 5 {
		stats, err := pl.Stats(ctx)
		if err == nil {
			err = sleep(ctx, patience)
		}
		if err != nil {
			return nil, errors.Join(err, pl.last.Kill())
		}
		if files := stats.Process.OpenFiles; pl.files == 0 || files < pl.files {
			pl.files = files
		}
	}
	return pl, nil
}

// start starts a pager by hand.
func (pl *place) start(ctx context.Context, failpoints string) error {
	o := pl.options
	// The supervisor that comes later keeps what this pager deposits.
	o.Env = []string{"NOTIFY_SOCKET=" + supervisor.NotifySocket(o.DataDir, o.Version)}
	if failpoints != "" {
		o.Env = append(o.Env, failpoint.Env+"="+failpoints)
	}
	started, err := supervisor.Start(ctx, o)
	if err != nil {
		return err
	}
	started.Close() // the connection, not the process
	pl.last = started
	return nil
}

// supervise has the pager that runs, or else a new one, kept alive.
func (pl *place) supervise(ctx context.Context) error {
	ctx, pl.release = context.WithCancel(context.WithoutCancel(ctx))
	s, err := supervisor.Supervise(ctx, supervisor.Config{
		Options: pl.options, Manager: supervisor.Child,
		Restart: supervisor.Restart{MinDelay: time.Millisecond, MaxDelay: time.Millisecond, Limit: -1},
	})
	if err == nil {
		pl.supervisor.Store(s)
	}
	return err
}

// over reports whether the place has been drained.
func (pl *place) over() bool {
	s := pl.supervisor.Load()
	if s == nil {
		return false
	}
	select {
	case <-s.Over():
		return true
	default:
		return false
	}
}

// patience is the time between two questions to a pager that may be dead for the moment.
const patience = 2 * time.Millisecond

// errOver says that a place has no pager any more.
var errOver = errors.New("the pager has been drained")

// ask repeats a question until a pager has answered it, also with a problem.
func (pl *place) ask(ctx context.Context, question func() error) error {
	for {
		over := pl.over()
		err := question()
		if answered := new(problem.Problem); err == nil || errors.As(err, &answered) {
			return err
		}
		if over {
			return errOver
		}
		if waitErr := sleep(ctx, patience); waitErr != nil {
			return fmt.Errorf("%w: %w", waitErr, err)
		}
	}
}

// health returns the health of the pager that serves the place.
func (pl *place) health(ctx context.Context) (h control.Health, err error) {
	return h, pl.ask(ctx, func() error { h, err = pl.Health(ctx); return err })
}

// create opens a session. One that is there already was made by a request whose
// answer got lost.
func (pl *place) create(ctx context.Context, req control.SessionRequest) (s control.Session, err error) {
	create := func() error { s, err = pl.CreateSession(ctx, req); return err }
	err = pl.ask(ctx, create)
	if errors.Is(err, &problem.Problem{Code: "session_exists"}) {
		if err = pl.close(ctx, req.ID); err == nil {
			err = pl.ask(ctx, create)
		}
	}
	return s, err
}

// close closes a session if there is one of that id.
func (pl *place) close(ctx context.Context, id string) error {
	err := pl.ask(ctx, func() error { _, err := pl.CloseSession(ctx, id); return err })
	if errors.Is(err, &problem.Problem{Code: "session_unknown"}) || errors.Is(err, errOver) {
		return nil
	}
	return err
}

// list returns the sessions that the pager remembers; none once it was drained.
func (pl *place) list(ctx context.Context) (list []control.Session, err error) {
	err = pl.ask(ctx, func() error { list, err = pl.Sessions(ctx); return err })
	if errors.Is(err, errOver) {
		return nil, nil
	}
	return list, err
}

// count returns how many sessions are in a state.
func (pl *place) count(ctx context.Context, in func(control.State) bool) (n int, err error) {
	list, err := pl.list(ctx)
	for _, s := range list {
		if in(s.State) {
			n++
		}
	}
	return n, err
}

// stop drains the pager and waits for its end.
func (pl *place) stop(ctx context.Context) error {
	if err := pl.supervisor.Load().Stop(ctx); err != nil {
		return fmt.Errorf("the pager %s does not drain: %w", pl.options.Version, err)
	}
	pl.Close()
	pl.release()
	return nil
}

// closeConnections leaves the pager without one, so that the next is the only one.
func (pl *place) closeConnections() {
	pl.Close()
	pl.supervisor.Load().Close()
}

// abandon ends the supervision in a cell that has failed, and the pager that was started
// by hand.
func (pl *place) abandon() {
	if s := pl.supervisor.Load(); s != nil {
		pl.release()
		<-s.Over()
	}
	_ = pl.last.Kill()
	pl.Close()
}

// log returns the end of the pager's log, for a failure's explanation.
func (pl *place) log() string {
	text, err := os.ReadFile(filepath.Join(pl.dir, "pager.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
