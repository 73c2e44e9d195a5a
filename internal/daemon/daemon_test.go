package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
)

// idle is a hypervisor that nobody asks to run anything.
type idle struct{ hypervisor.Hypervisor }

func (idle) Describe() hypervisor.Description {
	return hypervisor.Description{Name: "fcsim", Version: "v1.16.1"}
}

func testConfig(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{
		Instances: instance.Config{DataDir: filepath.Join(dir, "data"), Hypervisor: idle{}},
		Why:       "a test wants it", Version: "v1", Log: slog.New(slog.DiscardHandler),
	}
}

// start runs a daemon, waits until it is ready, and returns what ends it.
func start(t *testing.T, cfg Config) (c *client.Client, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	cfg.Ready = func() { close(ready) }
	go func() { done <- Run(ctx, cfg) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the daemon ended: %v", err)
	}
	c = client.New(filepath.Join(cfg.Instances.DataDir, SocketName))
	t.Cleanup(c.Close)
	return c, func() error { cancel(); return <-done }
}

func TestRun(t *testing.T) {
	cfg := testConfig(t)
	c, end := start(t, cfg)
	health, err := c.Health(t.Context())
	if err != nil || health.Status != "ok" || health.PID != os.Getpid() {
		t.Errorf("%+v %v", health, err)
	}
	version, err := c.Version(t.Context())
	if err != nil || version.Version != "v1" || version.Hypervisor != "fcsim" || version.Why != cfg.Why {
		t.Errorf("%+v %v", version, err)
	}
	// A second one is refused, and the first does not notice.
	second := cfg
	second.Ready = func() { t.Error("a second daemon serves the same directory") }
	if err := Run(t.Context(), second); err == nil || !strings.Contains(err.Error(), cfg.Instances.DataDir) {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(cfg.Instances.DataDir, SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
	if _, err := c.Health(t.Context()); !errors.Is(err, client.ErrNoDaemon) {
		t.Errorf("after the end: %v", err)
	}
	// The next one takes the directory up.
	_, end = start(t, cfg)
	if err := end(); err != nil {
		t.Error(err)
	}
}

// Streams do not keep the daemon from ending.
func TestEndWithStreams(t *testing.T) {
	cfg := testConfig(t)
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	c, end := start(t, cfg)
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.Events(context.Background(), "", func() { close(begun) }, func(instance.Event) error { return nil })
	}()
	<-begun
	if err := end(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	if strings.Contains(log.String(), "undone") {
		t.Errorf("the daemon waited for the stream: %s", log.String())
	}
}

func TestRunFails(t *testing.T) {
	cfg := testConfig(t)
	cfg.Group = "no-such-group-here"
	if err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Group) {
		t.Errorf("an unknown group: %v", err)
	}
	// The failure let go of the directory.
	cfg.Group = ""
	_, end := start(t, cfg)
	if err := end(); err != nil {
		t.Error(err)
	}
}
