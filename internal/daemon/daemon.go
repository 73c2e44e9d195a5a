// Package daemon is the process `faultline daemon`: it opens the manager of one data
// directory, serves the API on a unix socket, and lets go of both when it is told to
// end. The VMMs and the pager live on; the next daemon takes them up.
//
//	opening ──▶ serving ──signal──▶ ending ──▶ ended
//	   └───────────────any failure──────────────┘
//
// While it serves it reads its configuration again when it is asked to, see reload.
// While it ends, nothing new is accepted, streams end at once, and operations under
// way get [endTime]. What is not done by then is undone.
//
// The package owns the socket. Its one lock, the reloader's, is held for the reading
// of a file. A second daemon on the directory
// is refused by the manager before the socket is touched.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/api/server"
	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/sdnotify"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// SocketName is the API socket in the data directory, unless another is configured.
const SocketName = "faultline.sock"

// endTime bounds the wait for operations under way. A boot or a restore takes less.
const endTime = 30 * time.Second

// Config says what a daemon serves.
type Config struct {
	// Instances is the manager's.
	Instances instance.Config
	// Stages, if not nil, is where captures of running instances are written first.
	Stages *stage.Config
	// Why says why the hypervisor was chosen.
	Why string
	// Socket is the path of the API socket; empty means SocketName in the data
	// directory.
	Socket string
	// Group is the group that may use the socket, by name or number; empty means
	// that of the process.
	Group string
	// Version is that of the program.
	Version string
	// Loaded is the configuration that all this was made of, and Reload reads it
	// again; without one a reload changes nothing.
	Loaded config.Config
	Reload func() (config.Config, error)
	// Hangups gets a value when the configuration is to be read again. May be nil.
	Hangups <-chan os.Signal
	// Notify tells the service manager that the daemon is ready, and that it ends.
	// Nil where there is none.
	Notify *sdnotify.Notifier
	// Log receives what the daemon does. Required.
	Log *slog.Logger
	// Ready, if not nil, is called when requests are answered.
	Ready func()
}

// Run serves until ctx ends, and returns nil then.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(cfg.Instances.DataDir, SocketName)
	}
	if cfg.Stages != nil {
		area, removed, openErr := stage.Open(*cfg.Stages)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, area.Close()) }()
		if len(removed) > 0 {
			cfg.Log.Warn("captures that were not sealed when the daemon before died are gone", "stages", removed)
		}
		cfg.Instances.Stages = area
	}
	manager, err := instance.Open(ctx, cfg.Instances)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Close()) }()
	listener, err := server.Listen(cfg.Socket, cfg.Group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Unlink(cfg.Socket)) }()
	reloads := &reloader{manager: manager, load: cfg.Reload, current: cfg.Loaded}
	api := server.New(server.Config{Manager: manager, Version: cfg.Version, Why: cfg.Why, Reload: reloads.reload, Subscribe: func() (<-chan instance.Event, func()) {
		events := manager.Subscribe()
		return events.C, events.Close
	}})
	operations, undo := context.WithCancel(context.WithoutCancel(ctx))
	defer undo()
	web := &http.Server{
		Handler: api.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return operations },
		ErrorLog:    slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	web.RegisterOnShutdown(api.EndStreams)
	served := make(chan error, 1)
	go func() { served <- web.Serve(listener) }()
	cfg.Log.Info("daemon ready", "version", cfg.Version, "socket", cfg.Socket, "data_dir", cfg.Instances.DataDir, "hypervisor", cfg.Why)
	tell(cfg.Log, cfg.Notify.Ready())
	if cfg.Ready != nil {
		cfg.Ready()
	}
	for serving := true; serving; {
		select {
		case err := <-served:
			return fmt.Errorf("API: %w", err)
		case <-cfg.Hangups:
			reloads.log(cfg.Log)
		case <-ctx.Done():
			serving = false
		}
	}
	tell(cfg.Log, cfg.Notify.Stopping())
	cfg.Log.Info("ending: operations under way are finished, microVMs live on")
	return end(web, undo, cfg.Log)
}

// tell logs that the service manager could not be told: it asks again by other means.
func tell(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("the service manager does not know", "error", err)
	}
}

// end lets requests in progress finish, and undoes those that do not.
func end(web *http.Server, undo func(), log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	err := web.Shutdown(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	log.Warn("operations under way are undone", "waited", endTime)
	undo()
	ctx, cancel = context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := web.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return web.Close()
}
