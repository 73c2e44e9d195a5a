package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

const (
	// dataDir is what the unit says.
	dataDir = "/var/lib/faultline"
	// patience bounds what hangs.
	patience = 30 * time.Second
)

// TestInside runs in the container, as a unit of its systemd.
func TestInside(t *testing.T) {
	t.Run("alone", withoutSupervisor)
	t.Run("start", startByVersion)
	t.Run("restart", restart)
	t.Run("guests", guestsSurvive)
	t.Run("loads", loadsSurvive)
	t.Run("copies", guestsFromTheStore)
	t.Run("hang", hangingPager)
	t.Run("versions", versionsSideBySide)
	t.Run("upgrade", upgrade)
	t.Run("limit", startLimit)
	t.Run("stop", stopDrains)
	t.Run("store", descriptorStore)
	t.Run("child", otherDataDir)
	t.Run("refused", missingVersion)
	t.Run("daemon", daemonRestart)
}

// supervise keeps the unit of a version running until the test ends; the unit is
// then stopped.
func supervise(t *testing.T, version string, limit int) *supervisor.Supervisor {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := supervisor.Supervise(ctx, supervisor.Config{
		Options: supervisor.Options{DataDir: dataDir, Version: version},
		Restart: supervisor.Restart{MinDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond, Limit: limit},
		Logger:  slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-s.Over()
		systemctl(t, "stop", unitOf(version))
	})
	return s
}

func unitOf(version string) string {
	if version == "" {
		version = pager.Version()
	}
	return supervisor.UnitName(version)
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func property(t *testing.T, version, name string) string {
	t.Helper()
	return systemctl(t, "show", "--value", "--property="+name, unitOf(version))
}

// dropIn adds lines to the section Service of a version's unit until the test ends.
func dropIn(t *testing.T, version, lines string) {
	t.Helper()
	dir := "/run/systemd/system/" + unitOf(version) + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "test.conf"), []byte("[Service]\n"+lines+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		systemctl(t, "daemon-reload")
	})
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// killPager kills the pager and waits until the supervisor has another one.
func killPager(t *testing.T, s *supervisor.Supervisor) {
	t.Helper()
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitOther(t, s, pid)
}

// awaitOther waits until the supervisor has another pager than the process pid.
func awaitOther(t *testing.T, s *supervisor.Supervisor, pid int) {
	t.Helper()
	eventually(t, "a pager in the place of the killed one", func() bool {
		st := s.Status()
		return st.State == supervisor.Watching && st.PID != pid
	})
}

// withoutSupervisor leaves the restart to systemd.
func withoutSupervisor(t *testing.T) {
	systemctl(t, "start", unitOf(""))
	defer systemctl(t, "stop", unitOf(""))
	first := property(t, "", "MainPID")
	systemctl(t, "kill", "--signal=SIGKILL", unitOf(""))
	eventually(t, "systemd restarts the pager", func() bool {
		h, err := client.New(pager.ControlSocket(dataDir, pager.Version())).Health(t.Context())
		return err == nil && strconv.Itoa(h.PID) != first
	})
	if got := property(t, "", "NRestarts"); got != "1" {
		t.Errorf("one death gave %s restarts", got)
	}
}

func startByVersion(t *testing.T) {
	s := supervise(t, "", -1)
	if main := property(t, "", "MainPID"); main != strconv.Itoa(s.PID()) {
		t.Errorf("the unit's process is %s, the pager that answers is %d", main, s.PID())
	}
	h, err := s.Health(t.Context())
	if err != nil || h.Version != pager.Version() {
		t.Errorf("health %+v, %v", h, err)
	}
	if got := property(t, "", "NRestarts"); got != "0" {
		t.Errorf("started %s times again", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := property(t, "", "ActiveState"); got != "inactive" || s.Status().State != supervisor.Stopped {
		t.Errorf("after a drain the unit is %s, the supervisor %+v", got, s.Status())
	}
}

func restart(t *testing.T) {
	s := supervise(t, "", -1)
	for range 3 {
		killPager(t, s)
		if main := property(t, "", "MainPID"); main != strconv.Itoa(s.PID()) {
			t.Errorf("the unit's process is %s, the pager that answers is %d", main, s.PID())
		}
	}
	if got := s.Status().Restarts; got != 3 {
		t.Errorf("%d restarts counted", got)
	}
	// A second supervisor finds the unit.
	if second := supervise(t, "", -1); second.PID() != s.PID() {
		t.Errorf("a second supervisor has pager %d instead of %d", second.PID(), s.PID())
	}
}

func versionsSideBySide(t *testing.T) {
	first, second := supervise(t, "", -1), supervise(t, secondVersion, -1)
	pid := second.PID()
	killPager(t, first)
	if second.PID() != pid || property(t, secondVersion, "MainPID") != strconv.Itoa(pid) {
		t.Error("the death of one version moved the other")
	}
	list, err := supervisor.Versions(t.Context(), dataDir)
	if err != nil || len(list) != 2 || list[0].Err != nil || list[1].Err != nil {
		t.Fatalf("versions %+v, %v", list, err)
	}
	if list[0].Health.PID != first.PID() || list[1].Health.PID != pid || list[1].Health.Version != secondVersion {
		t.Errorf("versions %+v", list)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := property(t, secondVersion, "ActiveState"); got != "active" {
		t.Errorf("draining one version left the other %s", got)
	}
}

// startLimit kills more often than systemd restarts. The supervisor goes on.
func startLimit(t *testing.T) {
	s := supervise(t, "", -1)
	for range 30 {
		killPager(t, s)
	}
	s = supervise(t, "", 3)
	for range 2 {
		killPager(t, s)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var gaveUp *supervisor.GaveUpError
	if err := s.Err(); !errors.As(err, &gaveUp) || !strings.Contains(err.Error(), "journalctl -u "+unitOf("")) {
		t.Errorf("the supervisor ended with %v; want an error that names the journal", err)
	}
}

// stopDrains stops the unit as an operator does, and kills nothing.
func stopDrains(t *testing.T) {
	s := supervise(t, "", -1)
	if _, err := s.CreateSession(t.Context(), control.SessionRequest{ID: "last", Image: filepath.Join(dataDir, "image", memimage.ManifestName)}); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "stop", "--no-block", unitOf(""))
	eventually(t, "the pager drains", func() bool {
		h, err := s.Health(t.Context())
		return err == nil && h.Status == "draining"
	})
	if _, err := s.CloseSession(t.Context(), "last"); err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil || s.Status().State != supervisor.Stopped {
		t.Errorf("the supervisor ended with %v, %+v", err, s.Status())
	}
	if got := property(t, "", "Result"); got != "success" {
		t.Errorf("the unit ended with %s", got)
	}
}

// descriptorStore runs another program in the pager's unit, with all that the unit
// forbids.
func descriptorStore(t *testing.T) {
	const version = "99.0.2-keeper"
	dropIn(t, version, fmt.Sprintf("Environment=%s=1\nWatchdogSec=0\nExecStart=\nExecStart=/test/systemd.test", asKeeper))
	systemctl(t, "start", unitOf(version))
	t.Cleanup(func() { systemctl(t, "stop", unitOf(version)) })
	says := func(want string) func() bool {
		return func() bool {
			text, err := os.ReadFile(keeperState)
			return err == nil && string(text) == want
		}
	}
	eventually(t, "the keeper stores", says("stored"))
	eventually(t, "systemd has it", func() bool { return property(t, version, "NFileDescriptorStore") == "1" })
	systemctl(t, "kill", "--signal=SIGKILL", unitOf(version))
	eventually(t, "the next keeper finds it", says("1 "+keptName+": "+kept))
	eventually(t, "and lets it go", func() bool { return property(t, version, "NFileDescriptorStore") == "0" })
}

// otherDataDir asks for a data directory that is not the unit's.
func otherDataDir(t *testing.T) {
	o := supervisor.Options{DataDir: t.TempDir(), Binary: "/usr/local/bin/faultline-pager"}
	s, err := supervisor.Supervise(t.Context(), supervisor.Config{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	if got := property(t, "", "ActiveState"); got != "inactive" {
		t.Errorf("the unit is %s", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = supervisor.Supervise(t.Context(), supervisor.Config{Options: o, Manager: supervisor.Systemd})
	if err == nil || !strings.Contains(err.Error(), "another data directory") {
		t.Errorf("systemd for a directory that is not the unit's gave %v", err)
	}
}

func missingVersion(t *testing.T) {
	_, err := supervisor.Supervise(t.Context(), supervisor.Config{
		Options: supervisor.Options{DataDir: dataDir, Version: "98.0.0"}, Manager: supervisor.Systemd,
	})
	if err == nil || !strings.Contains(err.Error(), "install the pager of that version") {
		t.Errorf("a version that is not installed gave %v", err)
	}
}

// daemonRestart kills the daemon, and stops it. The microVM lives on.
func daemonRestart(t *testing.T) {
	faultline := func(args ...string) (string, error) {
		out, err := exec.Command("/usr/local/bin/faultline", args...).CombinedOutput()
		return string(out), err
	}
	const unit = "faultline.service"
	systemctl(t, "start", unit)
	eventually(t, "the daemon answers", func() bool { _, err := faultline("ps"); return err == nil })
	if out, err := faultline("create", "web", "--kernel", "/etc/hostname", "--mem", "32MiB", "--boot-args", "faultline.pages=64", "--start"); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	processes := func() string {
		names, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, name := range names {
			// A process may end between the listing and the reading.
			if comm, err := os.ReadFile(name); err == nil && string(comm) == "fcsim\n" {
				found = append(found, name)
			}
		}
		if len(found) == 0 {
			t.Fatal("no VMM runs")
		}
		return strings.Join(found, " ")
	}
	before := processes()
	for _, how := range [][]string{{"kill", "--kill-whom=main", "--signal=SIGKILL", unit}, {"restart", unit}} {
		main := systemctl(t, "show", "--value", "--property=MainPID", unit)
		systemctl(t, how...)
		eventually(t, "another daemon answers", func() bool {
			now := systemctl(t, "show", "--value", "--property=MainPID", unit)
			_, err := faultline("ps")
			return now != main && now != "0" && err == nil
		})
		if after := processes(); after != before {
			t.Errorf("after %s the VMM is %s instead of %s", how[0], after, before)
		}
	}
	if out, err := faultline("delete", "web"); err != nil {
		t.Errorf("delete: %v\n%s", err, out)
	}
	systemctl(t, "stop", unit)
}
