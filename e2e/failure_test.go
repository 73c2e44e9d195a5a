package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest"
)

// sabotaged returns a directory of programs in which fcsim does something else
// before it becomes itself: script, when it runs in the directory of a fork, whose
// name is $fork.
func sabotaged(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"faultline", "faultline-pager"} {
		if err := os.Link(filepath.Join(binaries, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`#!/bin/sh
fork=$(sed -n 's/^  "name": "\(fork-[0-9]*\)",$/\1/p' instance.json 2>/dev/null)
if [ -n "$fork" ]; then
%s
fi
exec %s "$@"
`, script, filepath.Join(binaries, "fcsim"))
	if err := os.WriteFile(filepath.Join(dir, "fcsim"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// layer is the layer that all forks have, by a name of the fork's own.
const layer = "captures/*/layers/*.mem"

func TestDemoFailsWhenAForkDies(t *testing.T) {
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			bin := sabotaged(t, `case $fork in fork-003) echo out of luck >&2; exit 3;; esac`)
			r := demo(t, bin, nil, "--hypervisor", "fcsim", "--backend", backend, "--json")
			var got result
			decode(t, r, &got)
			if r.code == 0 || len(got.Failures) != 1 || !strings.HasPrefix(got.Failures[0], "fork-003: ") ||
				!strings.Contains(got.Failures[0], "out of luck") {
				t.Errorf("the failure of one fork gave %v", r)
			}
			if want := uint64(2 * (testForks - 1) * testPages); got.PagesVerified != want {
				t.Errorf("the others verified %d pages, want %d", got.PagesVerified, want)
			}
		})
	}
}

func TestDemoLosesAVM(t *testing.T) {
	// The fork is restored, answers and is killed before its siblings are there.
	bin := sabotaged(t, `case $fork in fork-001) (while kill -0 $$; do grep -q pong console.log && kill -9 $$; done) & ;; esac`)
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			r := demo(t, bin, nil, "--hypervisor", "fcsim", "--backend", backend, "--parallel", "1", "--json")
			var got struct {
				VMsLost  int `json:"vms_lost"`
				Failures []string
			}
			decode(t, r, &got)
			if r.code == 0 || got.VMsLost != 1 || len(got.Failures) != 1 || !strings.HasPrefix(got.Failures[0], "fork-001: ") ||
				!strings.Contains(got.Failures[0], "the VMM ended: killed") {
				t.Errorf("the death of a fork that ran gave %v", r)
			}
		})
	}
}

func TestDemoFailsWhenAPageIsWrong(t *testing.T) {
	// One byte in the middle of the working set.
	offset := guest.BaseAddress + testPages/2*guest.PageSize + 17
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			bin := sabotaged(t, fmt.Sprintf(`chmod u+w %s; printf 'x' | dd of=$(echo %[1]s) bs=1 seek=%d conv=notrunc 2>/dev/null`, layer, offset))
			r := demo(t, bin, nil, "--hypervisor", "fcsim", "--backend", backend, "--json")
			var got result
			decode(t, r, &got)
			if r.code == 0 || got.PagesMismatched == 0 || len(got.Failures) != testForks {
				t.Errorf("a wrong byte gave %v", r)
			}
			if want := fmt.Sprintf("page %d among them", testPages/2); !strings.Contains(r.stdout, want) {
				t.Errorf("the output lacks %q: %v", want, r)
			}
		})
	}
}

func TestDemoFailsWhenTheImageIsTruncated(t *testing.T) {
	bin := sabotaged(t, fmt.Sprintf(`chmod u+w %s; for f in %[1]s; do : > $f; done`, layer))
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			r := demo(t, bin, nil, "--hypervisor", "fcsim", "--backend", backend, "--json")
			var got result
			decode(t, r, &got)
			if r.code == 0 || len(got.Failures) != testForks || got.PagesVerified != 0 {
				t.Errorf("an empty layer gave %v", r)
			}
			// The fork that did it had its session by then.
			if backend == "uffd" && !strings.Contains(strings.Join(got.Failures, "\n"), "the pager gave the session up") {
				t.Errorf("no failure gives the pager's reason: %q", got.Failures)
			}
		})
	}
}

func TestDemoWithoutPager(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"faultline", "fcsim"} {
		if err := os.Link(filepath.Join(binaries, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := demo(t, bin, func(cmd *exec.Cmd) { cmd.Env = []string{"PATH=/nowhere", "TMPDIR=" + os.TempDir()} }, "--hypervisor", "fcsim")
	if r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "make build") {
		t.Errorf("a missing pager gave %v", r)
	}
}

func TestDemoTimeout(t *testing.T) {
	// This fork never listens.
	bin := sabotaged(t, `case $fork in fork-002) exec sleep 1000;; esac`)
	r := demo(t, bin, nil, "--hypervisor", "fcsim", "--timeout", "3s")
	if r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "fork-002") || !strings.Contains(r.stderr, "not done after 3s") {
		t.Errorf("a fork that hangs gave %v", r)
	}
}

func TestDemoInterrupted(t *testing.T) {
	// dataDir checks that nothing is left.
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "faultline"), "demo", "--data-dir", dataDir(t),
		"--hypervisor", "fcsim", "--forks", "20", "--parallel", "2", "--working-set", "32MiB")
	cmd.Env = environment()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if strings.HasPrefix(lines.Text(), "restored 5 of") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "interrupt") {
		t.Errorf("an interrupt gave %v: %s", cmd.ProcessState, said.String())
	}
}
