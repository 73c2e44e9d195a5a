// Package daemontest runs a daemon in the process of a test. Its hypervisor runs no
// VMMs: such a daemon can do all for which none is needed.
//
// The package owns the data directory that it makes, and holds no locks.
package daemontest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/daemon"
)

// idle is a hypervisor that nobody asks to run anything.
type idle struct{ hypervisor.Hypervisor }

func (idle) Describe() hypervisor.Description {
	return hypervisor.Description{Name: "fcsim", Version: "v1.16.1"}
}

// Config returns the configuration of a daemon with a data directory of its own.
func Config(t testing.TB) daemon.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return daemon.Config{
		Instances: instance.Config{DataDir: filepath.Join(dir, "data"), Hypervisor: idle{}},
		Why:       "a test wants it", Version: "v1", Log: slog.New(slog.DiscardHandler),
	}
}

// Start runs a daemon, waits until it answers, and returns what ends it, which must
// be called.
func Start(t testing.TB, cfg daemon.Config) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	cfg.Ready = func() { close(ready) }
	go func() { done <- daemon.Run(ctx, cfg) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("the daemon ended: %v", err)
	}
	return func() error { cancel(); return <-done }
}
