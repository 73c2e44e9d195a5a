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
// before it becomes itself: script, when it runs in a fork's directory.
func sabotaged(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"faultline", "faultline-pager"} {
		if err := os.Link(filepath.Join(binaries, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("#!/bin/sh\ncase $PWD in */fork-*)\n%s\n;; esac\nexec %s \"$@\"\n",
		script, filepath.Join(binaries, "fcsim"))
	if err := os.WriteFile(filepath.Join(dir, "fcsim"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

const layer = "../source/captures/1/layers/*.mem"

func TestDemoFailsWhenAForkDies(t *testing.T) {
	for _, backend := range []string{"file", "uffd"} {
		t.Run(backend, func(t *testing.T) {
			bin := sabotaged(t, `case $PWD in */fork-003) echo out of luck >&2; exit 3;; esac`)
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
			if backend == "uffd" && !strings.Contains(strings.Join(got.Failures, "\n"), "the pager ended its session") {
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
	bin := sabotaged(t, `case $PWD in */fork-002) exec sleep 1000;; esac`)
	r := demo(t, bin, nil, "--hypervisor", "fcsim", "--timeout", "3s")
	if r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "fork-002") || !strings.Contains(r.stderr, "not done after 3s") {
		t.Errorf("a fork that hangs gave %v", r)
	}
}

func TestDemoInterrupted(t *testing.T) {
	// dataDir checks that nothing is left.
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "faultline"), "demo", "--data-dir", dataDir(t),
		"--hypervisor", "fcsim", "--forks", "20", "--parallel", "2", "--working-set", "32MiB")
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
