package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// task is what a victim does. It is killed where its N-th system call that changes
// files would have come.
type task struct {
	Op     string // take, staged, stop, fork, link, remove
	N      int
	Source string                // directory of a capture
	Target string                // of fork and link
	VMM    hypervisor.ProcessRef // of take and stop
	Hv     hypervisor.Description
	Disks  []Disk
	Stage  string // directory of the stage area, of staged
}

// Exit codes of a victim that was not killed.
const (
	victimDone    = 0
	victimFailed  = 1
	victimUnaided = 2 // the kernel cannot tell it where to die
)

// victim is the life of the process that is killed.
func victim(text string) int {
	var tk task
	if err := json.Unmarshal([]byte(text), &tk); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return victimFailed
	}
	seq := &syscallfault.Sequence{N: tk.N, Hit: func(syscallfault.Call) syscallfault.Errno {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}}
	var err error
	serr := syscallfault.Run(seq.Decide, func() { err = tk.run() })
	switch {
	case errors.Is(serr, syscallfault.ErrUnsupported):
		return victimUnaided
	case serr != nil || err != nil:
		fmt.Fprintln(os.Stderr, serr, err)
		return victimFailed
	}
	return victimDone
}

func (tk task) run() error {
	ctx := context.Background()
	c, err := Open(tk.Source)
	if err != nil {
		return err
	}
	switch tk.Op {
	case "fork":
		_, err = Fork(ctx, c, ForkOptions{Dir: tk.Target})
		return err
	case "link":
		_, err = Link(ctx, c, tk.Target)
		return err
	case "remove":
		return Remove(tk.Source)
	}
	vmm, err := firecracker.Attach(ctx, tk.VMM)
	if err != nil {
		return err
	}
	r := Request{
		VMM: vmm, Hypervisor: tk.Hv, Lineage: Restored(c, true), ID: "next", Stop: tk.Op == "stop", Disks: tk.Disks,
	}
	if tk.Stage != "" {
		if r.Stages, _, err = stage.Open(stage.Config{Dir: tk.Stage, Budget: roomy}); err != nil {
			return err
		}
	}
	result, err := Take(ctx, r)
	if err == nil && result.Staged != (tk.Stage != "") {
		return fmt.Errorf("staged: %v, because %w", result.Staged, result.Unstaged)
	}
	return err
}

// crash runs the victim and reports whether it lived to the end of its task.
func crash(t *testing.T, tk task) (lived bool) {
	t.Helper()
	text, err := json.Marshal(tk)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), victimVariable+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case err == nil:
		return true
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
		return false
	case status.ExitStatus() == victimUnaided:
		t.Skip(syscallfault.ErrUnsupported)
	}
	t.Fatalf("the victim of %s %d: %v: %s", tk.Op, tk.N, err, stderr.String())
	return false
}

// TestCrashInTake kills the program that takes a capture at each of its steps. The
// guest, another process, outlives it and is right; a sweep finds the old captures
// and the new one as a whole or not at all; and captures can be taken on.
func TestCrashInTake(t *testing.T) {
	for _, op := range []string{"take", "staged", "stop"} {
		t.Run(op, func(t *testing.T) {
			m := bootMachine(t)
			stages := ""
			if op == "staged" {
				stages = stageDir(t)
			}
			if err := os.Mkdir(filepath.Join(m.Ref().Dir, DisksDir), 0o700); err != nil {
				t.Fatal(err)
			}
			published, lived := 0, false
			for n := 0; !lived && !t.Failed(); n++ {
				var there bool
				lived, there = m.crashOnce(t, task{Op: op, N: n, Stage: stages})
				if there {
					published++
				} else if lived {
					t.Error("the victim lived and there is no capture")
				}
			}
			if published < 2 {
				t.Errorf("no step behind the publication was met: %d", published)
			}
		})
	}
}

// crashOnce has a victim die at a step of a capture, and looks at what is left.
func (m *machine) crashOnce(t *testing.T, tk task) (lived, published bool) {
	t.Helper()
	n := tk.N
	r := m.request(Booted(true))
	r.Disks = []Disk{{Name: "data"}}
	m.setDisk(t, "before %d", n)
	base := mustTake(t, r).Capture
	before := readImage(t, base)
	m.write()
	m.setDisk(t, "after %d", n)

	tk.Source, tk.VMM, tk.Hv, tk.Disks = base.Dir, m.Ref(), m.hv, r.Disks
	lived = crash(t, tk)
	if tk.Stage != "" {
		sweepStages(t, tk.Stage)
	}
	if _, err := Sweep(m.captures()); err != nil {
		t.Fatal(err)
	}
	left := names(t, m.captures())
	if published = slices.Contains(left, "next"); published != (len(left) == 2) {
		t.Errorf("killed at step %d: the directory holds %v", n, left)
	}
	if !bytes.Equal(readImage(t, base), before) || readFile(t, filepath.Join(base.Dir, DisksDir, "data")) != fmt.Sprintf("before %d", n) {
		t.Errorf("killed at step %d: the base has changed", n)
	}
	ended := tk.Op == "stop" && lived
	if published {
		m.compare(t, n, ended)
	}
	if !ended {
		// What a manager does with a guest that stands still.
		if err := m.Resume(within(t)); err != nil {
			t.Fatal(err)
		}
		m.check()
	}
	for _, name := range left {
		if err := Remove(filepath.Join(m.captures(), name)); err != nil {
			t.Fatal(err)
		}
	}
	return lived, published
}

// sweepStages is what the next start does about what was staged.
func sweepStages(t *testing.T, dir string) {
	t.Helper()
	area, _, err := stage.Open(stage.Config{Dir: dir, Budget: roomy})
	if err != nil {
		t.Fatal(err)
	}
	requireEmpty(t, area, dir)
	if err := area.Close(); err != nil {
		t.Error(err)
	}
}

func (m *machine) setDisk(t *testing.T, format string, n int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Ref().Dir, DisksDir, "data"), fmt.Appendf(nil, format, n), 0o600); err != nil {
		t.Fatal(err)
	}
}

// compare compares the capture that a victim published with the guest, which has
// done nothing since, or with a restored one where the guest has ended.
func (m *machine) compare(t *testing.T, n int, ended bool) {
	t.Helper()
	c, err := Open(filepath.Join(m.captures(), "next"))
	if err != nil {
		t.Error(err)
		return
	}
	if got := readFile(t, filepath.Join(c.Dir, DisksDir, "data")); got != fmt.Sprintf("after %d", n) {
		t.Errorf("the published capture's disk holds %q", got)
	}
	if ended {
		return
	}
	r := m.request(Booted(true))
	r.ID = "compare"
	other := mustTake(t, r).Capture
	if !bytes.Equal(readImage(t, c), readImage(t, other)) {
		t.Errorf("killed at step %d: the published capture is not the guest's memory", n)
	}
	if err := Remove(other.Dir); err != nil {
		t.Error(err)
	}
}

func TestCrashInForkAndLinkAndRemove(t *testing.T) {
	for _, op := range []string{"fork", "link", "remove"} {
		t.Run(op, func(t *testing.T) {
			lived, whole := false, 0
			for n := 0; !lived; n++ {
				_, _, c, w := source(t)
				parent := memoryDir(t)
				target := filepath.Join(parent, "target")
				lived = crash(t, task{Op: op, N: n, Source: c.Dir, Target: target})
				for _, dir := range []string{parent, filepath.Dir(c.Dir)} {
					if _, err := Sweep(dir); err != nil {
						t.Fatal(err)
					}
					for _, name := range names(t, dir) {
						if strings.HasPrefix(name, ".") {
							t.Errorf("killed at step %d: left %s", n, name)
						}
					}
				}
				made := map[string]string{"fork": filepath.Join(target, CapturesDir, c.Record.ID), "link": target, "remove": c.Dir}[op]
				// The fork's directory as a whole is what is there or not.
				root := target
				if op == "remove" {
					root = c.Dir
				}
				if _, err := os.Stat(root); err == nil {
					w.verify(t, made)
					whole++
				}
				if op != "remove" {
					w.verify(t, c.Dir)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			if whole == 0 {
				t.Error("nothing was ever whole")
			}
		})
	}
}
