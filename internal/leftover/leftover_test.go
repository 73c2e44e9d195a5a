package leftover

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sleeper starts a process that only a signal ends.
func sleeper(t *testing.T, cwd string, arguments ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", "while :; do sleep 1000; done", "sh"}, arguments...)...)
	cmd.Dir = cwd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func TestFindAndEnd(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "c1")
	for _, d := range []string{dir, dir + "0"} {
		if err := exec.Command("mkdir", d).Run(); err != nil {
			t.Fatal(err)
		}
	}
	ours := []*exec.Cmd{
		sleeper(t, dir),
		sleeper(t, "/", filepath.Join(dir, "socket")),
		sleeper(t, "/", "--log="+dir),
	}
	other := sleeper(t, dir+"0", dir+"0", "--log="+dir+"0")
	found, err := Processes(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range ours {
		ok := false
		for _, p := range found {
			ok = ok || p.PID == cmd.Process.Pid && strings.Contains(p.Arguments, "sleep 1000")
		}
		if !ok {
			t.Errorf("process %d (%v in %s) is not among %v", cmd.Process.Pid, cmd.Args, cmd.Dir, found)
		}
	}
	for _, p := range found {
		if p.PID == other.Process.Pid {
			t.Errorf("found is a process of %s0: %v", dir, p)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, cmd := range ours {
		go cmd.Wait() // a zombie has no arguments, and a directory no more
	}
	if err := End(ctx, dir); err != nil {
		t.Error(err)
	}
	if left, err := Processes(dir + "0"); err != nil || len(left) == 0 {
		t.Errorf("the other process has ended as well: %v, %v", left, err)
	}
}
