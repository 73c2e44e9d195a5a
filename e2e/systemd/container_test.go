package systemd

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/pagertest"
)

const (
	// rootVariable names the prepared root file system.
	rootVariable = "FAULTLINE_SYSTEMD_ROOT"
	// asInside makes the test binary run the tests of the inside.
	asInside = "FAULTLINE_TEST_INSIDE"
	// asKeeper makes the test binary a service that keeps descriptors.
	asKeeper = "FAULTLINE_TEST_KEEPER"
	// secondVersion is the pager that is installed next to the project's.
	secondVersion = "99.0.1-test"
)

func TestMain(m *testing.M) {
	faulter.Main()
	if os.Getenv(asKeeper) != "" {
		os.Exit(keeper())
	}
	choose := flag.CommandLine.Lookup("test.skip")
	if os.Getenv(asInside) != "" {
		choose = flag.CommandLine.Lookup("test.run")
	}
	if err := choose.Value.Set("^TestInside$"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// preparedRoot returns the root file system, or skips the test.
func preparedRoot(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a container needs root; run make test-systemd as root")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("systemd-nspawn is not on PATH; install systemd-container")
	}
	root := os.Getenv(rootVariable)
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("%v; name a root file system in %s", err, rootVariable)
		}
		root = filepath.Join(cache, "faultline", "systemd-root")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/systemd/systemd")); err != nil {
		t.Skipf("no root file system with systemd: %v; make one with make test-systemd", err)
	}
	return root
}

// installed installs the project with make, and another version of the pager next
// to it. It returns DESTDIR.
func installed(t *testing.T) string {
	t.Helper()
	dest, bin := t.TempDir(), t.TempDir()
	install := exec.CommandContext(t.Context(), "make", "-C", "../..", "install", "BIN="+bin, "DESTDIR="+dest)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	binary, err := pagertest.Build(bin, secondVersion)
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(dest, "usr/local/lib/faultline/pager", secondVersion)
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(binary, filepath.Join(second, "faultline-pager")); err != nil {
		t.Fatal(err)
	}
	return dest
}

// insideUnit runs the tests of the inside and ends the container with their result.
const insideUnit = `[Unit]
Description=Tests
SuccessAction=exit
FailureAction=exit
SuccessActionExitStatus=0

[Service]
Type=oneshot
Environment=` + asInside + `=1
ExecStart=/test/systemd.test -test.v -test.timeout=4m
ExecStopPost=-/bin/sh -c 'test $EXIT_STATUS = 0 || journalctl --no-pager -n 200 > /result/journal'
StandardOutput=append:/result/output
StandardError=inherit
`

// TestSystemd boots the container, whose only unit beyond the basics runs
// TestInside, and reports what that found.
func TestSystemd(t *testing.T) {
	root, result := preparedRoot(t), t.TempDir()
	dest := installed(t)
	unit := filepath.Join(t.TempDir(), "faultline-test.service")
	if err := os.WriteFile(unit, []byte(insideUnit), 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--directory=" + root, "--volatile=overlay", "--boot", "--quiet", "--console=pipe", "--register=no",
		fmt.Sprintf("--machine=faultline-test-%d", os.Getpid()),
		"--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		// nspawn allows neither by itself.
		"--system-call-filter=userfaultfd pidfd_getfd",
		"--bind-ro=" + filepath.Join(dest, "usr/local") + ":/usr/local",
		"--bind-ro=" + filepath.Join(dest, "etc/faultline") + ":/etc/faultline",
		"--bind-ro=" + unit + ":/etc/systemd/system/faultline-test.service",
		"--bind-ro=" + self + ":/test/systemd.test",
		"--bind=" + result + ":/result",
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		// Nobody here makes units, so nspawn works in this process's control group,
		// and leaves its own there.
		args = append(args, "--keep-unit")
		t.Cleanup(removeGroups)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	container := exec.CommandContext(ctx, "systemd-nspawn", append(args, "systemd.unit=faultline-test.service")...)
	var console bytes.Buffer
	container.Stdout, container.Stderr = &console, &console
	container.Cancel = func() error { return container.Process.Signal(syscall.SIGTERM) }
	container.WaitDelay = 30 * time.Second
	err = container.Run()
	report(t, result)
	if err != nil {
		t.Errorf("the container ended with %v; its console:\n%s", err, console.Bytes())
	}
}

// removeGroups removes the control groups that nspawn makes below this process's:
// in the unified hierarchy and, where there is one, in systemd's own of version 1.
// Those that are in use stay.
func removeGroups() {
	for _, hierarchy := range []string{"", "unified", "systemd"} {
		for _, group := range []string{"payload/init.scope", "payload", "supervisor"} {
			for _, own := range ownGroups() {
				_ = os.Remove(filepath.Join("/sys/fs/cgroup", hierarchy, own, group))
			}
		}
	}
}

// ownGroups returns the paths of this process's control groups, cgroups(7).
func ownGroups() (paths []string) {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			paths = append(paths, fields[2])
		}
	}
	return paths
}

var testResult = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): TestInside/(\S+)`)

// report repeats the results of the inside as subtests.
func report(t *testing.T, result string) {
	t.Helper()
	output, err := os.ReadFile(filepath.Join(result, "output"))
	if err != nil {
		t.Errorf("the tests of the inside did not start: %v", err)
		return
	}
	found := testResult.FindAllStringSubmatch(string(output), -1)
	for _, m := range found {
		t.Run(m[2], func(t *testing.T) {
			switch m[1] {
			case "FAIL":
				t.Error("failed in the container; its output is below")
			case "SKIP":
				t.Skipf("skipped in the container:\n%s", output)
			}
		})
	}
	if len(found) == 0 {
		t.Error("the tests of the inside have no result")
	}
	if !t.Failed() && strings.HasSuffix(strings.TrimSpace(string(output)), "PASS") {
		return
	}
	t.Errorf("output of the inside:\n%s", output)
	if journal, err := os.ReadFile(filepath.Join(result, "journal")); err == nil {
		t.Logf("journal:\n%s", journal)
	}
}
