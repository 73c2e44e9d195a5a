package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/pager"
)

// files lists the regular files and links below dir, with their modes.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[strings.TrimPrefix(path, dir)] = info.Mode().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInstall(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not on PATH; install it")
	}
	dest, bin := t.TempDir(), t.TempDir()
	run := func(target string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "make", "-C", "..", target, "BIN="+bin, "DESTDIR="+dest, "PREFIX=/opt/faultline")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	// What other releases and the users left.
	other := filepath.Join(dest, "opt/faultline/lib/faultline/pager/0.0.1/faultline-pager")
	data := filepath.Join(dest, "var/lib/faultline/snapshots/base/memory.json")
	for _, name := range []string{other, data} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	run("install")
	versioned := "/opt/faultline/lib/faultline/pager/" + pager.Version() + "/faultline-pager"
	want := map[string]string{
		"/etc/faultline/config.yaml":                                 "-rw-r--r--",
		"/opt/faultline/bin/faultline":                               "-rwxr-xr-x",
		"/opt/faultline/bin/faultline-pager":                         "Lrwxrwxrwx",
		"/opt/faultline/bin/fcsim":                                   "-rwxr-xr-x",
		versioned:                                                    "-rwxr-xr-x",
		"/opt/faultline/lib/systemd/system/faultline.service":        "-rw-r--r--",
		"/opt/faultline/lib/systemd/system/faultline-pager@.service": "-rw-r--r--",
		"/opt/faultline/lib/faultline/pager/0.0.1/faultline-pager":   "-rw-r--r--",
		"/var/lib/faultline/snapshots/base/memory.json":              "-rw-r--r--",
	}
	if diff := cmp.Diff(want, files(t, dest)); diff != "" {
		t.Errorf("after make install (-want +got):\n%s", diff)
	}
	for name, arg := range map[string]string{"faultline-pager": "--version", "fcsim": "--version", "faultline": "version"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dest, "opt/faultline/bin", name), arg).CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", name, arg, err, out)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dest, "opt/faultline/lib/systemd/system/faultline-pager@.service"))
	if err != nil {
		t.Fatal(err)
	}
	start := "ExecStart=" + strings.Replace(versioned, pager.Version(), "%i", 1) + " "
	if !bytes.Contains(unit, []byte(start)) || bytes.Contains(unit, []byte("/usr/local")) {
		t.Errorf("the unit does not start %q:\n%s", start, unit)
	}

	// A configuration that was changed outlives both another installation and the end.
	config := filepath.Join(dest, "etc/faultline/config.yaml")
	const changed = "data_dir: /srv/faultline\n"
	if err := os.WriteFile(config, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	run("install")
	run("uninstall")
	if text, err := os.ReadFile(config); err != nil || string(text) != changed {
		t.Errorf("the configuration became %q, %v", text, err)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	run("install")
	run("uninstall")
	left := map[string]string{"/var/lib/faultline/snapshots/base/memory.json": "-rw-r--r--"}
	if diff := cmp.Diff(left, files(t, dest)); diff != "" {
		t.Errorf("after make uninstall (-want +got):\n%s", diff)
	}
	run("uninstall") // of nothing
}
