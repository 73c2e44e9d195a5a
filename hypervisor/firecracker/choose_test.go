package firecracker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// program writes an executable script.
func program(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func answering(version, snapshot string) string {
	return `case $1 in --version) echo "` + version + `"; echo; echo noise;; --snapshot-version) ` + snapshot + `;; esac`
}

func TestProbe(t *testing.T) {
	requireNoLeak(t)
	dir := t.TempDir()
	path := program(t, dir, "fc", answering("Firecracker v1.16.1", `echo v10.0.0`))
	got, err := firecracker.Probe(t.Context(), path)
	want := firecracker.Binary{
		Path: path, Name: firecracker.Real,
		Version: firecracker.Version{Major: 1, Minor: 16, Patch: 1}, SnapshotVersion: firecracker.Version{Major: 10},
	}
	if err != nil || got != want {
		t.Errorf("%+v, error %v; want %+v", got, err, want)
	}

	old := program(t, dir, "old", answering("Firecracker v1.6.0", `echo unknown >&2; exit 1`))
	if got, err := firecracker.Probe(t.Context(), old); err != nil || got.SnapshotVersion != (firecracker.Version{}) {
		t.Errorf("a program without --snapshot-version: %+v, error %v", got, err)
	}
}

func TestProbeOfOtherPrograms(t *testing.T) {
	requireNoLeak(t)
	dir := t.TempDir()
	for name, c := range map[string]struct{ body, want string }{
		"jailer":  {answering("Jailer v1.16.1", "true"), "another program"},
		"failing": {"exit 4", "exit status 4"},
		"silent":  {"true", "another program"},
		"endless": {"yes Firecracker | head -c 10000000", "another program"},
		"coded":   {answering(`Firecracker v1.2.3-\033[31m`, "true"), "not a version"},
		"sloppy":  {answering("Firecracker v1.16.1", "echo ten"), "--snapshot-version"},
	} {
		if b, err := firecracker.Probe(t.Context(), program(t, dir, name, c.body)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, error %v; want one that says %q", name, b, err, c.want)
		}
	}
	if _, err := firecracker.Probe(t.Context(), filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing program was probed")
	}
}

func TestProbeOfAHangingProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a timeout of seconds; run without -short")
	}
	requireNoLeak(t)
	hanging := program(t, t.TempDir(), "hanging", "sleep 1000 & wait")
	if _, err := firecracker.Probe(t.Context(), hanging); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("error %v", err)
	}
}

func TestChoose(t *testing.T) {
	dir := t.TempDir()
	simulator := program(t, dir, "sim", answering("fcsim v1.16.0", "echo 1.0.0+fcsim"))
	real := program(t, dir, "real", answering("Firecracker v1.16.1", "echo v10.0.0"))
	empty := t.TempDir()
	t.Setenv("PATH", "/bin:/usr/bin:"+empty)
	if _, err := os.Stat("/usr/bin/firecracker"); err == nil {
		t.Skip("a Firecracker is installed among the system's programs; remove /usr/bin/firecracker")
	}

	t.Run("nothing installed", func(t *testing.T) {
		if c, err := firecracker.Choose(t.Context(), firecracker.Selection{}); err == nil || !strings.Contains(err.Error(), "make build") {
			t.Errorf("choice %+v, error %v", c, err)
		}
	})
	t.Run("only the simulator", func(t *testing.T) {
		c, err := firecracker.Choose(t.Context(), firecracker.Selection{Simulator: simulator})
		if err != nil || c.Binary.Name != firecracker.Simulator || !strings.Contains(c.Why, "no firecracker on PATH") {
			t.Errorf("choice %+v, error %v", c, err)
		}
	})
	t.Run("simulator on PATH", func(t *testing.T) {
		program(t, empty, "fcsim", answering("fcsim v1.16.0", "echo 1.0.0+fcsim"))
		c, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferSimulator})
		if err != nil || c.Binary.Path != filepath.Join(empty, "fcsim") || !strings.Contains(c.Why, "asked for") {
			t.Errorf("choice %+v, error %v", c, err)
		}
	})
	t.Run("real asked for and missing", func(t *testing.T) {
		if c, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal, Simulator: simulator}); err == nil {
			t.Errorf("choice %+v", c)
		}
	})
	t.Run("configured and missing", func(t *testing.T) {
		if c, err := firecracker.Choose(t.Context(), firecracker.Selection{Firecracker: filepath.Join(dir, "none"), Simulator: simulator}); err == nil {
			t.Errorf("choice %+v", c)
		}
	})
	t.Run("the host decides", func(t *testing.T) {
		// Whatever this host can do, the two preferences agree on it.
		auto, err := firecracker.Choose(t.Context(), firecracker.Selection{Firecracker: real, Simulator: simulator})
		if err != nil {
			t.Fatal(err)
		}
		_, forced := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal, Firecracker: real})
		if (auto.Binary.Name == firecracker.Real) != (forced == nil) {
			t.Errorf("auto chose %s, and firecracker by force: %v", auto.Why, forced)
		}
	})
	t.Run("not the simulator", func(t *testing.T) {
		if c, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferSimulator, Simulator: real}); err == nil {
			t.Errorf("choice %+v", c)
		}
	})
	t.Run("unknown preference", func(t *testing.T) {
		if c, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: "qemu"}); err == nil {
			t.Errorf("choice %+v", c)
		}
	})
}
