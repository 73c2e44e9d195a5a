package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/pagertest"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// patience bounds what hangs. Nothing is expected to come near it.
const patience = 30 * time.Second

// quick restarts soon, and gives up only in tests that want it.
var quick = Restart{MinDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond, Limit: -1}

// supervised keeps a pager running until the test ends. See options for the pager's end.
func supervised(t *testing.T, cfg Config) *Supervisor {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s, err := Supervise(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-s.Over()
	})
	return s
}

func child(t *testing.T) Config {
	return Config{Options: options(t), Manager: Child, Restart: quick}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// awaitOther waits until another process than pid answers.
func awaitOther(t *testing.T, c *client.Client, pid int) control.Health {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for ctx.Err() == nil {
		if h, err := c.Health(ctx); err == nil && h.PID != pid {
			return h
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("no pager took the place of process %d", pid)
	return control.Health{}
}

// awaitWatching waits until the supervisor watches the process pid.
func awaitWatching(t *testing.T, s *Supervisor, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if st := s.Status(); st.State == Watching && st.PID == pid {
			return
		}
	}
	t.Fatalf("the supervisor does not watch pager %d: %+v", pid, s.Status())
}

// patient returns a context that ends with patience.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// outcome waits for the end of the supervision.
func outcome(t *testing.T, s *Supervisor) error {
	t.Helper()
	select {
	case <-s.Over():
	case <-time.After(patience):
		t.Fatalf("the supervision goes on: %+v", s.Status())
	}
	return s.Err()
}

func TestKilledPagerIsReplaced(t *testing.T) {
	s := supervised(t, child(t))
	for i := range 5 {
		pid := s.PID()
		kill(t, pid)
		h := awaitOther(t, s.Client, pid)
		awaitWatching(t, s, h.PID)
		if got := s.Status().Restarts; got != i+1 {
			t.Errorf("%d restarts are counted after %d deaths", got, i+1)
		}
	}
	// The replacement is a session, and so a group, of its own.
	if group, err := syscall.Getpgid(s.PID()); err != nil || group != s.PID() {
		t.Errorf("the pager %d is in the process group %d, %v", s.PID(), group, err)
	}
	if err := s.Stop(patient(t)); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Stopped {
		t.Errorf("after Stop the state is %q", st.State)
	}
	if _, err := s.Health(t.Context()); err == nil {
		t.Error("a pager answers after Stop")
	}
}

func TestDrainedPagerStaysDown(t *testing.T) {
	for _, found := range []bool{false, true} {
		cfg := child(t)
		if found {
			p, err := Start(t.Context(), cfg.Options)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
		}
		s := supervised(t, cfg)
		// Not through the supervisor: anybody may drain a pager.
		c := client.New(pager.ControlSocket(cfg.DataDir, pager.Version()))
		if _, err := c.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := outcome(t, s); err != nil || s.Status().State != Stopped {
			t.Errorf("found %v: %v, %+v; want stopped without an error", found, err, s.Status())
		}
	}
}

func TestGivesUp(t *testing.T) {
	cfg := child(t)
	cfg.Restart.Limit = 4
	s := supervised(t, cfg)
	for range 3 {
		pid := s.PID()
		kill(t, pid)
		awaitWatching(t, s, awaitOther(t, s.Client, pid).PID)
	}
	kill(t, s.PID())
	var gaveUp *GaveUpError
	if err := outcome(t, s); !errors.As(err, &gaveUp) || gaveUp.Deaths != 4 || !strings.Contains(err.Error(), "pager.log") {
		t.Errorf("the fourth death gave %v; want an error that says so and names the log", err)
	}
	if s.Status().State != GaveUp {
		t.Errorf("state %q", s.Status().State)
	}
}

// TestGivesUpOnStarts makes every start after the first fail.
func TestGivesUpOnStarts(t *testing.T) {
	cfg := child(t)
	cfg.Restart.Limit = 5
	s := supervised(t, cfg)
	// The pager cannot take a directory whose lock is a directory.
	lock := filepath.Join(pager.Dir(cfg.DataDir, pager.Version()), "pager.lock")
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	kill(t, s.PID())
	var gaveUp *GaveUpError
	if err := outcome(t, s); !errors.As(err, &gaveUp) || gaveUp.Deaths != 5 || !strings.Contains(err.Error(), "pager.lock") {
		t.Errorf("got %v; want an error that says why the last start failed", err)
	}
}

func TestContextLeavesThePager(t *testing.T) {
	cfg := child(t)
	ctx, cancel := context.WithCancel(t.Context())
	first, err := Supervise(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	pid := first.PID()
	cancel()
	if err := outcome(t, first); err != nil || first.Status().State != Released {
		t.Errorf("the end of the context gave %v, %+v", err, first.Status())
	}
	if err := first.Stop(t.Context()); err == nil {
		t.Error("a released supervisor claims to have stopped the pager")
	}
	second := supervised(t, cfg)
	if second.PID() != pid {
		t.Fatalf("the second supervisor has pager %d, not %d, which runs", second.PID(), pid)
	}
	kill(t, pid)
	h := awaitOther(t, second.Client, pid)
	awaitWatching(t, second, h.PID)
}

// TestTwoSupervisorsOfOnePager kills the pager that both watch: one starts the
// next, the other finds it.
func TestTwoSupervisorsOfOnePager(t *testing.T) {
	cfg := child(t)
	a, b := supervised(t, cfg), supervised(t, cfg)
	for range 3 {
		pid := a.PID()
		kill(t, pid)
		h := awaitOther(t, a.Client, pid)
		awaitWatching(t, a, h.PID)
		awaitWatching(t, b, h.PID)
	}
}

// TestReplacedProgram replaces the program by one that does not work while its
// pager runs. The next pager must be the old program.
func TestReplacedProgram(t *testing.T) {
	for _, found := range []bool{false, true} {
		cfg := child(t)
		original, err := os.ReadFile(cfg.Binary)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Binary = filepath.Join(cfg.DataDir, "faultline-pager")
		if err := os.WriteFile(cfg.Binary, original, 0o755); err != nil {
			t.Fatal(err)
		}
		replace := func() {
			if err := errors.Join(os.Remove(cfg.Binary), os.WriteFile(cfg.Binary, []byte("#!/bin/false\n"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		if found {
			p, err := Start(t.Context(), cfg.Options)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			replace()
		}
		s := supervised(t, cfg)
		if !found {
			replace()
		}
		pid := s.PID()
		kill(t, pid)
		awaitWatching(t, s, awaitOther(t, s.Client, pid).PID)
	}
}

func TestVersionsSideBySide(t *testing.T) {
	cfg := child(t)
	const other = "99.0.1-test"
	binary, err := pagertest.Build(t.TempDir(), other)
	if err != nil {
		t.Fatal(err)
	}
	newer := cfg
	newer.Binary, newer.Version = binary, other
	old, young := supervised(t, cfg), supervised(t, newer)
	for _, s := range []*Supervisor{old, young} {
		pid := s.PID()
		kill(t, pid)
		h := awaitOther(t, s.Client, pid)
		awaitWatching(t, s, h.PID)
		if h.Version != s.cfg.Version {
			t.Errorf("pager %s came back as version %s", s.cfg.Version, h.Version)
		}
	}
	if old.Status().Restarts != 1 || young.Status().Restarts != 1 {
		t.Errorf("one death each gave %+v and %+v", old.Status(), young.Status())
	}
	if err := old.Stop(patient(t)); err != nil {
		t.Fatal(err)
	}
	list, err := Versions(t.Context(), cfg.DataDir)
	if err != nil || len(list) != 2 {
		t.Fatalf("versions %+v, %v", list, err)
	}
	if list[0].Version != pager.Version() || !errors.Is(list[0].Err, fs.ErrNotExist) {
		t.Errorf("the drained version: %+v", list[0])
	}
	if list[1].Version != other || list[1].Err != nil || list[1].Health.PID != young.PID() {
		t.Errorf("the version that runs: %+v", list[1])
	}

	wrong := cfg
	wrong.Version = other + "1"
	if _, err := Supervise(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), pager.Version()) {
		t.Errorf("a program of another version gave %v", err)
	}
}

func TestSuperviseFailures(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"missing program":    {func(c *Config) { c.Binary = filepath.Join(c.DataDir, "no-such-pager") }, "no-such-pager"},
		"refused arguments":  {func(c *Config) { c.CacheMaxBytes = 1 }, "cache-max-bytes"},
		"relative directory": {func(c *Config) { c.DataDir = "data" }, "not absolute"},
		"delays":             {func(c *Config) { c.Restart.MinDelay = -1 }, "delays"},
		"no unit":            {func(c *Config) { c.Manager = Systemd }, "systemd"},
	} {
		cfg := child(t)
		test.change(&cfg)
		s, err := Supervise(t.Context(), cfg)
		if err == nil {
			s.Stop(patient(t))
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s gave %v; want an error with %q", name, err, test.want)
		}
	}
	if list, err := Versions(t.Context(), t.TempDir()); err != nil || len(list) != 0 {
		t.Errorf("versions of an unused directory: %v, %v", list, err)
	}
}
