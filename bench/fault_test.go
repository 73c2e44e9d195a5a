package bench

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/memimage"
)

func TestMain(m *testing.M) {
	faulter.Main()
	os.Exit(m.Run())
}

// programs builds what the group runs besides this program.
func programs(t *testing.T) string {
	t.Helper()
	dir := shortdir.Make(t)
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/faultline-pager", "./cmd/fcsim")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, output)
	}
	return dir
}

// tiny is enough work to have every row.
func tiny() *size {
	return &size{
		pages: 256, rounds: 2, burst: 64,
		allocProcesses: 2, allocPages: 256, statsCalls: 4,
		forks: 2, memory: 64 << 20, workingSet: 1 << 20,
	}
}

func refused(t *testing.T) bool {
	t.Helper()
	p, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: memimage.PageSize}}})
	if errors.Is(err, faulter.ErrRefused) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return false
}

// TestFaultGroup runs the whole group with little work. What the figures are is
// not looked at, for they are times.
func TestFaultGroup(t *testing.T) {
	if refused(t) {
		t.Skip("userfaultfd is not permitted here; run as root or set vm.unprivileged_userfaultfd=1")
	}
	bin, dir := programs(t), shortdir.Make(t)
	var progress bytes.Buffer
	report, err := Run(t.Context(), Options{
		Group: "fault", Dir: dir, Version: "v1", Progress: &progress, size: tiny(),
		PagerBinary: filepath.Join(bin, "faultline-pager"), SimulatorBinary: filepath.Join(bin, "fcsim"),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	limits := map[string]float64{"fault_vs_c": 1.10, "fault_allocs": 0, "pager_memory_mib": 64}
	var names []string
	for _, c := range report.Cases {
		names = append(names, c.Name)
		limit, promised := limits[c.Name]
		if promised != (c.Limit != nil) || promised && *c.Limit != limit {
			t.Errorf("%s has limit %v, want %v", c.Name, number(c.Limit), limit)
		}
		_, noC := exec.LookPath("cc")
		if strings.HasSuffix(c.Name, "_vs_c") && noC != nil && os.Getenv("CC") == "" {
			if c.Value != nil || !strings.Contains(c.Skipped, "C compiler") {
				t.Errorf("%s without a compiler: %+v", c.Name, c)
			}
			continue
		}
		if c.Value == nil || *c.Value < 0 || c.Skipped != "" || c.Detail == "" {
			t.Errorf("%s was not measured: %+v", c.Name, c)
		}
	}
	want := []string{"fault_vs_c", "naive_fault_vs_c", "fault_p50", "fault_p99", "fault_allocs", "pager_memory_mib"}
	if !slices.Equal(names, want) {
		t.Errorf("cases %v, want %v", names, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the run left %v, %v", left, err)
	}
}

// TestWithoutCompiler skips the cases about C alone.
func TestWithoutCompiler(t *testing.T) {
	if refused(t) {
		t.Skip("userfaultfd is not permitted here; run as root or set vm.unprivileged_userfaultfd=1")
	}
	t.Setenv("CC", "no-such-compiler")
	r := &run{Options: Options{Progress: &bytes.Buffer{}}, size: *tiny(), ctx: t.Context(), dir: shortdir.Make(t)}
	cases, err := r.faultContest(filepath.Join(programs(t), "faultline-pager"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		aboutC := strings.HasSuffix(c.Name, "_vs_c")
		if aboutC != strings.Contains(c.Skipped, "no C compiler") || aboutC == (c.Value != nil) {
			t.Errorf("%+v", c)
		}
	}
}

// TestFailureIsTold has a pager that ends at once: each row says so, and the run
// has failed.
func TestFailureIsTold(t *testing.T) {
	report, err := Run(t.Context(), Options{Group: "fault", Dir: shortdir.Make(t), PagerBinary: "/bin/false", SimulatorBinary: "/bin/false", size: tiny()})
	if err == nil || len(report.Cases) != 6 {
		t.Fatalf("error %v, %d cases", err, len(report.Cases))
	}
	for _, c := range report.Cases {
		if c.Skipped == "" || c.Value != nil {
			t.Errorf("%+v", c)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	_, err := Run(t.Context(), Options{Group: "fualt"})
	if err == nil || !strings.Contains(err.Error(), "fault") {
		t.Errorf("an unknown group: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{Group: "fault", Dir: shortdir.Make(t), PagerBinary: "/bin/false", size: tiny()}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted run: %v", err)
	}
}

// TestCheck finds a page that is not the image's.
func TestCheck(t *testing.T) {
	if refused(t) {
		t.Skip("userfaultfd is not permitted here; run as root or set vm.unprivileged_userfaultfd=1")
	}
	img, err := makeImage(t.Context(), filepath.Join(t.TempDir(), "image"), 16)
	if err != nil {
		t.Fatal(err)
	}
	process, end, err := start(t.Context(), startInGo, naive{}, img)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	if err := img.check(process); err != nil {
		t.Error(err)
	}
	if err := process.(inGo).Write(5*memimage.PageSize, []byte("other")); err != nil {
		t.Fatal(err)
	}
	if err := img.check(process); err == nil {
		t.Error("a changed page was not seen")
	}
}

func TestScattered(t *testing.T) {
	offsets := image{pages: 100}.scattered()
	if slices.IsSorted(offsets) || !slices.Equal(offsets, image{pages: 100}.scattered()) {
		t.Error("the order is sorted, or not the same each time")
	}
	slices.Sort(offsets)
	for i, offset := range offsets {
		if offset != uint64(i)*memimage.PageSize {
			t.Fatalf("offset %d is %d", i, offset)
		}
	}
}

// TestRecoveryGroup runs the group recovery with little work.
func TestRecoveryGroup(t *testing.T) {
	if refused(t) {
		t.Skip("userfaultfd is not permitted here; run as root or set vm.unprivileged_userfaultfd=1")
	}
	bin, dir := programs(t), shortdir.Make(t)
	little := tiny()
	little.recoverySize = recoverySize{attached: 6, attachedPages: 512, upgrades: 2}
	var progress bytes.Buffer
	report, err := Run(t.Context(), Options{
		Group: "recovery", Dir: dir, Version: "v1", Progress: &progress, size: little, Kills: 1,
		PagerBinary: filepath.Join(bin, "faultline-pager"), SimulatorBinary: filepath.Join(bin, "fcsim"),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var names []string
	for _, c := range report.Cases {
		names = append(names, c.Name)
		if c.Value == nil || c.Limit == nil || c.Detail == "" {
			t.Errorf("%s was not measured: %+v", c.Name, c)
		}
		if strings.HasPrefix(c.Name, "kills_") && *c.Value != 0 {
			t.Errorf("%s is %v: %s", c.Name, *c.Value, c.Detail)
		}
	}
	if want := []string{"readopt_ms", "kill_stall_ms", "upgrade_stall_ms", "kills_wrong_pages", "kills_lost_vms"}; !slices.Equal(names, want) {
		t.Errorf("cases %v, want %v", names, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the run left %v, %v", left, err)
	}
}
