package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/faultline-vm/faultline/pager"
)

// launcher is a way to run pagers: as children or as units.
type launcher interface {
	// launch starts a pager and waits until it answers. When ctx ends first, what
	// was started is left to itself.
	launch(ctx context.Context) (*running, error)
	// finished reports whether a pager that has ended did so by itself, with no
	// session left: it was drained and is not to be started again.
	finished(ctx context.Context, r *running) (bool, error)
	// log says where the pager's log is, for people.
	log() string
	close()
}

// childLauncher runs the pager as a child process.
type childLauncher struct {
	options    Options
	executable executable
}

func (l *childLauncher) launch(ctx context.Context) (*running, error) {
	p, err := spawn(l.options, l.executable.path())
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.awaitHealth(ctx, l.options.StartTimeout); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, errors.Join(err, p.Kill())
	}
	return &running{pid: p.PID(), exited: p.exited, release: func() {}, child: p}, nil
}

// finished asks for the exit status, which only a parent learns. Of a pager that
// was found the socket tells.
func (l *childLauncher) finished(_ context.Context, r *running) (bool, error) {
	if r.child != nil {
		return r.child.err == nil, nil
	}
	return socketGone(pager.ControlSocket(l.options.DataDir, l.options.Version))
}

// socketGone reports whether a control socket is gone. It goes when the pager ends
// by itself, after its sessions, and stays when the pager is killed.
func socketGone(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

func (l *childLauncher) log() string { return l.options.Log }
func (l *childLauncher) close()      { l.executable.close() }
