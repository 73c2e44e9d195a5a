package instance

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUnknown takes away, one after the other, each fact that the state of a running
// instance comes from, and gives it back.
func TestUnknown(t *testing.T) {
	s := newSite(t)
	m := s.open()
	lazy(s, m)
	i := mustBe(t, m, "a", Running)
	ctx := within(t)
	c := s.pager()
	defer c.Close()
	health, err := c.Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(i.Dir, recordName)
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) func() error { return func() error { return os.WriteFile(path, []byte(text), 0o600) } }
	for _, fact := range []struct {
		name, reason  string
		lose, restore func() error
	}{
		{"the VMM", "does not answer", signal(i.PID, syscall.SIGSTOP), signal(i.PID, syscall.SIGCONT)},
		{"the pager", "the pager " + health.Version + " does not answer", signal(health.PID, syscall.SIGSTOP), signal(health.PID, syscall.SIGCONT)},
		{"the record", "cannot be used", put("{"), put(string(record))},
		{"the record's content", "somebody else", put(strings.Replace(string(record), `"name": "a"`, `"name": "b"`, 1)), put(string(record))},
		{"the record's file", "no such file", func() error { return os.Remove(path) }, put(string(record))},
	} {
		if err := fact.lose(); err != nil {
			t.Fatal(err)
		}
		now, err := m.Wait(ctx, "a", Unknown)
		if err != nil || !strings.Contains(now.Reason, fact.reason) {
			t.Fatalf("without %s: %s (%s), %v", fact.name, now.State, now.Reason, err)
		}
		if _, err := m.Pause(ctx, "a"); code(err) != CodeWrongState {
			t.Errorf("without %s it was paused: %v", fact.name, err)
		}
		if err := fact.restore(); err != nil {
			t.Fatal(err)
		}
		if now, err := m.Wait(ctx, "a", Running); err != nil {
			t.Fatalf("with %s: %s (%s), %v", fact.name, now.State, now.Reason, err)
		}
	}
	s.verify(m)
	s.audit(m)
}

func signal(pid int, s syscall.Signal) func() error {
	return func() error { return syscall.Kill(pid, s) }
}

// TestPagerDies kills the pager under a guest that is loading lazily.
func TestPagerDies(t *testing.T) {
	s := newSite(t)
	m := s.open()
	lazy(s, m)
	ctx := within(t)
	c := s.pager()
	defer c.Close()
	health, err := c.Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(health.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.verify(m)
	if now, err := m.Wait(ctx, "a", Running); err != nil {
		t.Fatalf("%s (%s): %v", now.State, now.Reason, err)
	}
	s.audit(m)
}

// TestCaptureLost takes a file of the capture of an instance in standby away.
func TestCaptureLost(t *testing.T) {
	s := newSite(t)
	m := s.open()
	standby(s, m)
	ctx := within(t)
	i := mustBe(t, m, "a", Standby)
	path := filepath.Join(i.Dir, "captures", i.Capture.ID, "vmstate")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if now, err := m.Wait(ctx, "a", Unknown); err != nil || !strings.Contains(now.Reason, "capture") {
		t.Fatalf("%s (%s), %v", now.State, now.Reason, err)
	}
	if _, err := m.Restore(ctx, "a", RestoreRequest{}); code(err) != CodeWrongState {
		t.Errorf("restore: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Wait(ctx, "a", Standby); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenRecord opens a data directory with a record that cannot be read, of an
// instance that runs.
func TestBrokenRecord(t *testing.T) {
	s := newSite(t)
	m := s.open()
	running(s, m)
	i := mustBe(t, m, "a", Running)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(i.Dir, recordName)
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{true, false} {
		if err := os.WriteFile(path, []byte(`{"version": 2}`), 0o600); err != nil {
			t.Fatal(err)
		}
		m = s.open()
		now := mustBe(t, m, i.ID, Unknown)
		if !strings.Contains(now.Reason, "version is 2") {
			t.Errorf("reason: %s", now.Reason)
		}
		if len(s.vmms()) != 1 {
			t.Errorf("the VMMs are %v", s.vmms())
		}
		ctx := within(t)
		if repair {
			if err := os.WriteFile(path, record, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Wait(ctx, i.ID, Running); err != nil {
				t.Fatal(err)
			}
			s.verify(m)
			s.audit(m)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := m.Delete(ctx, i.ID); err != nil {
			t.Fatal(err)
		}
		s.mustBeEmpty(m)
	}
}

// TestVMMDies ends the VMM in the ways that it can end by itself.
func TestVMMDies(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	running(s, m)
	kill(s, m, syscall.SIGKILL)
	if now, err := m.Wait(ctx, "a", Failed); err != nil || !strings.Contains(now.Reason, "killed") || now.PID != 0 {
		t.Fatalf("%+v, %v", now, err)
	}
	s.audit(m)
	// The same while nobody is watching.
	if _, err := m.Start(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	i := mustBe(t, m, "a", Running)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m = s.open()
	// As long as nobody has reaped it, the process can be found; how it ended is known
	// then since Linux 6.15.
	if now, err := m.Wait(ctx, "a", Failed); err != nil || !strings.Contains(now.Reason, "watching") && !strings.Contains(now.Reason, "unknown") && !strings.Contains(now.Reason, "killed") {
		t.Fatalf("%+v, %v", now, err)
	}
	s.audit(m)
}
