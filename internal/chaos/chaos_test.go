package chaos

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/leftover"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestMain(m *testing.M) {
	faulter.Main()
	os.Exit(m.Run())
}

// config builds the programs, and skips the test where no memory can be served.
func config(t *testing.T) Config {
	t.Helper()
	p, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: 4096}}})
	if errors.Is(err, faulter.ErrRefused) {
		t.Skipf("no userfaultfd here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	bin := shortdir.Make(t)
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/faultline-pager", "./cmd/fcsim")
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, output)
	}
	return Config{
		PagerBinary: filepath.Join(bin, "faultline-pager"), SimulatorBinary: filepath.Join(bin, "fcsim"),
		Dir: shortdir.Make(t), Progress: t.Output(), Seed: rand.Uint64(),
	}
}

// wantNothing checks that a run has left its directory empty.
func wantNothing(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the run left %v, %v", left, err)
	}
}

// TestShort is the short form of the matrix, with another seed each time.
func TestShort(t *testing.T) {
	cfg := config(t)
	cfg.Short = true
	report, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if err := report.WriteTable(&table); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", table.String())
	if !report.OK() {
		t.Errorf("%s", report.Summary())
	}
	for _, c := range report.Cells {
		if c.Outcome == Passed && (c.StallMS <= 0 || c.PagesRight == 0 || c.WrongPages != 0) {
			t.Errorf("%s passed with %+v", c.Cell, c)
		}
	}
	wantNothing(t, cfg.Dir)
}

// TestWrongMemory gives a cell a wrong idea of what its memory must hold.
func TestWrongMemory(t *testing.T) {
	cfg := config(t)
	c := Cell{Event: eventKill, Page: page4K, Balloon: balloonOff, VCPUs: oneCPU, Work: oneFork, VMM: simulator}
	for what, spoil := range map[string]func(*source){
		"witness": func(s *source) { s.sum[0]++ },
		"fork": func(s *source) {
			g := s.guest.(workloadGuest)
			g.w.Pages++
			s.guest = g
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := &run{Config: cfg, dir: filepath.Join(cfg.Dir, what), sources: map[string]*source{}}
			if err := os.Mkdir(r.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			var err error
			if r.host, err = prepare(t.Context(), cfg, r.dir); err != nil {
				t.Fatal(err)
			}
			s, err := r.sourceOf(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			spoil(s)
			result := r.runCell(t.Context(), c, 1)
			if result.Outcome != Failed || !strings.Contains(result.Reason, what) && !strings.Contains(result.Reason, "pages instead of") {
				t.Errorf("a cell with wrong memory %s: %s", result.Outcome, result.Reason)
			}
			if processes, err := leftover.Processes(r.dir); err != nil || len(processes) > 0 {
				t.Errorf("the failed cell left %v, %v", processes, err)
			}
		})
	}
}

// TestFailure has cells whose pager does not start.
func TestFailure(t *testing.T) {
	cfg := config(t)
	cfg.PagerBinary, cfg.LaterPager = "/bin/false", "/bin/false"
	cfg.Only, cfg.Seed = "kill/4k/off/1cpu/1-fork/fcsim", 7
	report, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Cells) != 1 || report.OK() {
		t.Fatalf("the report is %+v", report)
	}
	c := report.Cells[0]
	if c.Outcome != Failed || c.Reason == "" || c.Repeat != "faultline chaos --seed 7 --only 'kill/4k/off/1cpu/1-fork/fcsim'" {
		t.Errorf("the cell is %+v", c)
	}
	wantNothing(t, cfg.Dir)
}

// TestInterrupted ends a run before its first cell.
func TestInterrupted(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if report, err := Run(ctx, cfg); !errors.Is(err, context.Canceled) || len(report.Cells) != 0 {
		t.Errorf("an interrupted run gave %v and %d cells", err, len(report.Cells))
	}
	wantNothing(t, cfg.Dir)
}

func TestLeftovers(t *testing.T) {
	dir := shortdir.Make(t)
	if err := checkLeftovers(dir); err != nil {
		t.Error(err)
	}
	sessions := filepath.Join(dir, "data", "uffd", "1", "sessions")
	if err := os.MkdirAll(filepath.Join(sessions, "fork-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(sessions, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := checkLeftovers(dir); err == nil || !strings.Contains(err.Error(), "fork-1") || !strings.Contains(err.Error(), "s.sock") {
		t.Errorf("a journal and a socket were not found: %v", err)
	}
	sleeper := exec.Command("sleep", "60")
	sleeper.Dir = dir
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	if found, err := leftover.Processes(dir); err != nil || !slices.ContainsFunc(found, func(p leftover.Process) bool { return strings.Contains(p.Arguments, "sleep") }) {
		t.Errorf("a process in the directory was not found: %v, %v", found, err)
	}
}

func TestTable(t *testing.T) {
	report := Report{Seed: 5, Pagers: []string{"1"}, VMMs: []string{"fcsim 1"}, Cells: []Result{
		{Cell: "kill/4k/off/1cpu/1-fork/fcsim", Outcome: Passed, StallMS: 2, PagesRight: 10},
		{Cell: "kill/2m/off/1cpu/1-fork/fcsim", Outcome: Skipped, Reason: "no pool"},
		{Cell: "drain/4k/off/1cpu/detach/fcsim", Outcome: Failed, Reason: "broken"},
		{Cell: "crash:populated/4k/off/1cpu/1-fork/fcsim", Outcome: Impossible, Reason: "never"},
	}}
	var out bytes.Buffer
	if err := report.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"kill        1       0       1         2.0 ms       kill/4k/off/1cpu/1-fork/fcsim\n",
		"drain       0       1       0         0.0 ms",
		"1 cells passed, 1 failed, 1 skipped, 1 impossible, 0 not run\n",
		"10 pages were right", "1 skipped: no pool\n", "1 impossible: never\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the table lacks %q:\n%s", line, out.String())
		}
	}
}
