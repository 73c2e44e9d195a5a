package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/control"
)

// stop stops a process, and returns when all its threads have stopped: until then it may
// answer once more.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	runs := func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("process %d has no threads: %v", pid, err)
		}
		return slices.ContainsFunc(threads, func(path string) bool {
			stat, err := os.ReadFile(path)
			return err == nil && !bytes.Contains(stat, []byte(") T "))
		})
	}
	for deadline := time.Now().Add(patience); runs(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

// TestStoppedPagerIsReplaced stops pagers that no death tells of.
func TestStoppedPagerIsReplaced(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	cfg.Watchdog = time.Second
	s := supervised(t, cfg)
	vmm := guest(t, s.Client, "a", manifest)
	pid := s.PID()
	stop(t, pid)
	wantPages(t, vmm, content, 0, guestPages)
	h := awaitOther(t, s.Client, pid)
	awaitWatching(t, s, h.PID)
	// The next supervisor hears the pager as well, which it did not start.
	next := supervised(t, cfg)
	for deadline := time.Now().Add(patience); next.launcher.beats() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pager gives no sign of life")
		}
	}
	stop(t, h.PID)
	awaitWatching(t, next, awaitOther(t, next.Client, h.PID).PID)
	awaitSession(t, next.Client, "a", control.Serving)
}

// TestSilentPagerIsReplaced starts a supervisor where a pager hangs already.
func TestSilentPagerIsReplaced(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	cfg.Watchdog = time.Second
	p, err := Start(t.Context(), cfg.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	vmm := guest(t, p.Client, "a", manifest)
	stop(t, p.PID())
	s := supervised(t, cfg)
	if s.PID() == p.PID() {
		t.Error("the supervisor found a pager that does not answer")
	}
	wantPages(t, vmm, content, 0, guestPages)
}

// TestHangingPagerIsReplaced lets the only fault loop hang while requests are answered.
func TestHangingPagerIsReplaced(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	cfg.Watchdog = time.Second
	// Of each process: two pages are installed, the third hangs.
	cfg.Env = []string{failpoint.Env + "=before-copy=delay:1h@3"}
	s := supervised(t, cfg)
	vmm := guest(t, s.Client, "a", manifest)
	wantPages(t, vmm, content, 0, 4)
	// The pages come a moment before the supervisor knows who sent them.
	for deadline := time.Now().Add(patience); s.Status().Restarts == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing hung")
		}
	}
	log, err := os.ReadFile(filepath.Join(pager.Dir(cfg.DataDir, pager.Version()), "pager.log"))
	if err != nil || !bytes.Contains(log, []byte("SIGABRT")) || !bytes.Contains(log, []byte("failpoint")) {
		t.Errorf("the log does not say where the pager hung (%v):\n%s", err, log)
	}
}
