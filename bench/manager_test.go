package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// TestManagerGroup runs the whole group with little work. Of its figures only the
// number of failures does not depend on time.
func TestManagerGroup(t *testing.T) {
	bin, dir := programs(t), shortdir.Make(t)
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/faultline")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the daemon: %v\n%s", err, output)
	}
	little := tiny()
	little.managerSize = managerSize{standby: 5, burstForks: 3, startRounds: 2}
	report, err := Run(t.Context(), Options{
		Group: "manager", Dir: dir, Version: "v1", size: little, ManagerBinary: filepath.Join(bin, "faultline"),
		PagerBinary: filepath.Join(bin, "faultline-pager"), SimulatorBinary: filepath.Join(bin, "fcsim"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range report.Cases {
		got = append(got, c.Name)
		if c.Value == nil || c.Limit == nil || c.Detail == "" {
			t.Errorf("%+v lacks its value, limit or detail", c)
		} else if c.Name == "forks_failed" && *c.Value != 0 {
			t.Errorf("%v forks failed: %s", *c.Value, c.Detail)
		}
	}
	if want := []string{"daemon_start_s", "ps_ms", "daemon_memory_mib", "forks_failed"}; !slices.Equal(got, want) {
		t.Errorf("cases %v, want %v", got, want)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

func TestManagerGroupSaysWhyItCouldNot(t *testing.T) {
	dir := shortdir.Make(t)
	little := tiny()
	little.managerSize = managerSize{standby: 1, burstForks: 1, startRounds: 1}
	report, err := Run(t.Context(), Options{
		Group: "manager", Dir: dir, size: little, ManagerBinary: filepath.Join(dir, "none"), PagerBinary: filepath.Join(dir, "none"),
	})
	if err == nil || len(report.Cases) != 4 {
		t.Fatalf("%v, %+v", err, report.Cases)
	}
	for _, c := range report.Cases {
		if c.Value != nil || c.Skipped == "" {
			t.Errorf("%+v", c)
		}
	}
}

func TestReportSeeker(t *testing.T) {
	want := guest.Report{Kind: guest.Check, Pages: 3, First: guest.NoPage}
	text := "kernel\n" + guest.Report{Kind: guest.Ready}.String() + "\n" + want.String() + "\nmore"
	for size := 1; size <= len(text); size += 7 {
		s := &reportSeeker{kind: guest.Check}
		for chunk := range slices.Chunk([]byte(text), size) {
			if _, err := s.Write(chunk); err != nil {
				break
			}
		}
		if !s.found || s.report != want {
			t.Errorf("in parts of %d bytes: %v %+v", size, s.found, s.report)
		}
	}
	if _, err := (&reportSeeker{kind: guest.Check}).Write([]byte("faultline check pass=1\n")); err == nil {
		t.Error("a damaged report was passed over")
	}
}
