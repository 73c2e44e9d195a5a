package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/daemon"
	"github.com/faultline-vm/faultline/internal/daemon/daemontest"
	"github.com/faultline-vm/faultline/internal/sdnotify"
)

// start runs a daemon and returns a client, and what ends it.
func start(t *testing.T, cfg daemon.Config) (c *client.Client, end func() error) {
	t.Helper()
	end = daemontest.Start(t, cfg)
	c = client.New(filepath.Join(cfg.Instances.DataDir, daemon.SocketName))
	t.Cleanup(c.Close)
	return c, end
}

func TestRun(t *testing.T) {
	cfg := daemontest.Config(t)
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
	if err := daemon.Run(t.Context(), second); err == nil || !strings.Contains(err.Error(), cfg.Instances.DataDir) {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(cfg.Instances.DataDir, daemon.SocketName)); !errors.Is(err, os.ErrNotExist) {
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
	cfg := daemontest.Config(t)
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
	cfg := daemontest.Config(t)
	cfg.Group = "no-such-group-here"
	if err := daemon.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Group) {
		t.Errorf("an unknown group: %v", err)
	}
	// The failure let go of the directory.
	cfg.Group = ""
	_, end := start(t, cfg)
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A reload takes the backend over and says which other keys wait for a restart; one
// with a fault takes nothing over.
func TestReload(t *testing.T) {
	cfg := daemontest.Config(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const backend = "hypervisor:\n  firecracker_snapshot_memory_backend: "
	write(backend + "file\n")
	cfg.Reload = func() (config.Config, error) { return config.Load(file, nil) }
	var err error
	if cfg.Loaded, err = cfg.Reload(); err != nil {
		t.Fatal(err)
	}
	hangups := make(chan os.Signal)
	cfg.Hangups = hangups
	c, end := start(t, cfg)
	reload := func(want api.Reloaded) {
		t.Helper()
		got, err := c.Reload(t.Context())
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v: %s", err, diff)
		}
	}
	reload(api.Reloaded{Applied: []string{}, Restart: []string{}})
	write(backend + "uffd\n  prefer: fcsim\npager:\n  manager: child\n")
	reload(api.Reloaded{Applied: []string{config.BackendKey}, Restart: []string{"hypervisor.prefer", "pager.manager"}})
	reload(api.Reloaded{Applied: []string{}, Restart: []string{"hypervisor.prefer", "pager.manager"}})
	write(backend + "tape\nnobody: 1\n")
	if _, err := c.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "tape") || !strings.Contains(err.Error(), "line 3: nobody") {
		t.Errorf("a configuration with two faults: %v", err)
	}
	write(backend + "auto\n")
	hangups <- syscall.SIGHUP
	hangups <- syscall.SIGHUP // taken when the first was served
	reload(api.Reloaded{Applied: []string{}, Restart: []string{}})
	if err := end(); err != nil {
		t.Error(err)
	}
}

// The service manager hears that the daemon serves, and that it ends.
func TestNotify(t *testing.T) {
	cfg := daemontest.Config(t)
	path := filepath.Join(filepath.Dir(cfg.Instances.DataDir), "notify")
	service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if cfg.Notify, err = sdnotify.New(func(string) string { return path }); err != nil {
		t.Fatal(err)
	}
	_, end := start(t, cfg)
	if err := end(); err != nil {
		t.Error(err)
	}
	if err := service.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		message := make([]byte, 100)
		n, err := service.Read(message)
		if err != nil || string(message[:n]) != want {
			t.Errorf("%q, %v, want %s", message[:n], err, want)
		}
	}
}
