package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/internal/sdnotify"
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
	// beats returns how many signs of life were heard of any pager; always 0 where
	// somebody else listens for them.
	beats() int64
	// log says where the pager's log is, for people.
	log() string
	close()
}

// childLauncher runs the pager as a child process.
type childLauncher struct {
	options    Options
	executable executable
	keeper     *keeper
	watchdog   time.Duration // 0 for none
}

// newChildLauncher takes the executable over.
func newChildLauncher(cfg Config, e executable) (*childLauncher, error) {
	socket := NotifySocket(cfg.DataDir, cfg.Version)
	err := os.MkdirAll(filepath.Dir(socket), 0o700)
	var k *keeper
	if err == nil {
		k, err = newKeeper(socket)
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return &childLauncher{options: cfg.Options, executable: e, keeper: k, watchdog: max(cfg.Watchdog, 0)}, nil
}

func (l *childLauncher) launch(ctx context.Context) (*running, error) {
	if l.watchdog > 0 {
		if err := endSilent(ctx, l.options, l.watchdog); err != nil {
			return nil, err
		}
	}
	names, files, err := l.keeper.pass()
	if err != nil {
		return nil, err
	}
	defer closeFiles(files)
	beats := l.beats()
	p, err := spawn(l.options, l.executable.path(), sdnotify.Variables(os.Environ(), l.keeper.path, l.watchdog, names), files)
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
	return &running{pid: p.PID(), exited: p.exited, release: func() {}, signal: p.signal, beats: beats, child: p}, nil
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

func (l *childLauncher) log() string  { return l.options.Log }
func (l *childLauncher) beats() int64 { return l.keeper.beats.Load() }

func (l *childLauncher) close() {
	l.executable.close()
	l.keeper.close()
}
