package instance

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadInput asks for what cannot be, and makes sure that nothing comes of it.
func TestBadInput(t *testing.T) {
	s := newSite(t)
	s.cfg.TapTemplate = ""
	m := s.open()
	ctx := within(t)
	spec := s.spec()
	spec.Networks[0].Tap = "tap0"
	must(s, 0, second(m.Create(ctx, CreateRequest{Name: "a", Spec: spec})))
	for _, test := range []struct {
		name, code, want string
		spoil            func(*CreateRequest)
	}{
		{"a name that is taken", CodeNameTaken, "has the name a", func(r *CreateRequest) { r.Name = "a" }},
		{"an illegal name", CodeBadRequest, "lower-case", func(r *CreateRequest) { r.Name = "../b" }},
		{"no kernel", CodeBadRequest, "kernel", func(r *CreateRequest) { r.Spec.Kernel = "" }},
		{"a missing kernel", CodeBadRequest, "no such file", func(r *CreateRequest) { r.Spec.Kernel = "/no/such/kernel" }},
		{"a missing drive", CodeBadRequest, "no such file", func(r *CreateRequest) { r.Spec.Drives[0].Source = "/no/such/disk" }},
		{"a directory as a drive", CodeBadRequest, "regular", func(r *CreateRequest) { r.Spec.Drives[0].Source = "/" }},
		{"no memory", CodeBadRequest, "memory_bytes is 0", func(r *CreateRequest) { r.Spec.MemoryBytes = 0 }},
		{"more memory than there is", CodeBadRequest, "this host has", func(r *CreateRequest) { r.Spec.MemoryBytes = 1 << 50 }},
		{"no tap", CodeBadRequest, "tap of its own", func(r *CreateRequest) { r.Spec.Networks[0].Tap = "" }},
	} {
		spec := s.spec()
		spec.Networks[0].Tap = "tap1"
		r := CreateRequest{Name: "b", Spec: spec}
		test.spoil(&r)
		if _, err := m.Create(ctx, r); code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	must(s, 0, second(m.Start(ctx, "a")))
	must(s, 0, second(m.Standby(ctx, "a")))
	for _, test := range []struct {
		name, code string
		req        ForkRequest
	}{
		{"an unknown source", CodeNotFound, ForkRequest{Source: "nobody"}},
		{"no source", CodeNotFound, ForkRequest{}},
		{"too many", CodeBadRequest, ForkRequest{Source: "a", Count: maxForks + 1}},
		{"less than none", CodeBadRequest, ForkRequest{Source: "a", Count: -1}},
		{"names for others", CodeBadRequest, ForkRequest{Source: "a", Count: 3, Names: []string{"x", "y"}}},
		{"the same name twice", CodeNameTaken, ForkRequest{Source: "a", Names: []string{"x", "x"}, Taps: nil}},
		{"a taken name", CodeNameTaken, ForkRequest{Source: "a", Names: []string{"a"}}},
		{"a state that is none", CodeBadRequest, ForkRequest{Source: "a", Target: Failed}},
		{"no tap", CodeBadRequest, ForkRequest{Source: "a"}},
		{"a tap for no interface", CodeBadRequest, ForkRequest{Source: "a", Taps: []Tap{{"eth9", "t"}}}},
		{"a tap for two forks", CodeBadRequest, ForkRequest{Source: "a", Count: 2, Taps: []Tap{{"eth0", "t"}}}},
		{"an identity without a page", CodeBadRequest, ForkRequest{Source: "a", Identity: []byte("x")}},
		{"no such backend", CodeBadRequest, ForkRequest{Source: "a", Backend: "tape", Taps: []Tap{{"eth0", "t"}}}},
	} {
		if test.code == CodeNameTaken {
			m.cfg.TapTemplate = "t{id}-{n}"
		}
		if _, err := m.Fork(ctx, test.req); code(err) != test.code {
			t.Errorf("%s: %v, want %s", test.name, err, test.code)
		}
		m.cfg.TapTemplate = ""
	}
	if f, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"x"}, Taps: []Tap{{"eth0", "mine"}}}); err != nil || f[0].Instance.Spec.Networks[0].Tap != "mine" {
		t.Errorf("a fork with a tap: %+v, %v", f, err)
	}
	if _, err := m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "No"}); code(err) != CodeBadRequest {
		t.Errorf("a snapshot with an illegal name: %v", err)
	}
	for _, err := range []error{m.Delete(ctx, "nobody"), m.DeleteSnapshot(ctx, "nobody"), second(m.Get(""))} {
		if code(err) != CodeNotFound {
			t.Errorf("%v", err)
		}
	}
	s.audit(m)
}

func TestDataDir(t *testing.T) {
	s := newSite(t)
	m := s.open()
	if _, err := Open(context.Background(), s.cfg); code(err) != CodeLocked {
		t.Errorf("a second manager: %v", err)
	}
	must(s, 0, m.Close())
	if _, err := m.Start(within(t), "a"); code(err) != CodeClosed && code(err) != CodeNotFound {
		t.Errorf("a closed manager: %v", err)
	}
	version := filepath.Join(s.cfg.DataDir, "VERSION")
	for text, want := range map[string]string{"2\n": CodeNewerFormat, "x": CodeBadRequest, "0": CodeBadRequest} {
		must(s, 0, os.WriteFile(version, []byte(text), 0o600))
		if _, err := Open(context.Background(), s.cfg); code(err) != want {
			t.Errorf("version %q: %v, want %s", text, err, want)
		}
	}
	must(s, 0, os.WriteFile(version, []byte("1\n"), 0o600))
	s.open()
	for name, spoil := range map[string]func(*Config){
		"no directory":   func(c *Config) { c.DataDir = "" },
		"no hypervisor":  func(c *Config) { c.Hypervisor = nil },
		"no parent":      func(c *Config) { c.DataDir = filepath.Join(s.dir, "x", "y") },
		"a bad backend":  func(c *Config) { c.Backend = "tape" },
		"a bad template": func(c *Config) { c.TapTemplate = "{id}" },
		"two ways":       func(c *Config) { c.Reconfigure.VsockPort = 5 },
	} {
		cfg := s.cfg
		spoil(&cfg)
		if _, err := Open(context.Background(), cfg); code(err) != CodeBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReferences(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	var ids []string
	for range 17 { // two ids then begin with the same digit
		i, err := m.Create(ctx, CreateRequest{Spec: s.spec()})
		must(s, 0, err)
		ids = append(ids, i.ID)
		for _, ref := range []string{i.ID, i.ID[:12], i.Name} {
			if got, err := m.Get(ref); err != nil || got.ID != i.ID {
				t.Errorf("%s: %v, %v", ref, got.ID, err)
			}
		}
	}
	ambiguous := 0
	for _, id := range ids {
		if _, err := m.Get(id[:1]); code(err) == CodeAmbiguous {
			ambiguous++
		}
	}
	if ambiguous < 2 {
		t.Errorf("%d ambiguous references", ambiguous)
	}
}
