package bench

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestResidentAndEvict(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if bytes, err := resident(path); err != nil || bytes != 64<<10 {
		t.Errorf("%d bytes resident after writing, %v", bytes, err)
	}
	if filesystem(t.TempDir()) == "tmpfs" {
		t.Skip("pages of tmpfs cannot be dropped; set TMPDIR to a directory on a disk")
	}
	if err := evict(path); err != nil {
		t.Fatal(err)
	}
	if bytes, err := resident(path); err != nil || bytes != 0 {
		t.Errorf("%d bytes resident after dropping them, %v", bytes, err)
	}
}

func TestOwnBytes(t *testing.T) {
	base, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(base, "shared"), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(base, "shared"), filepath.Join(dir, "shared")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if bytes, err := ownBytes(dir, base); err != nil || bytes < 4096 || bytes >= 8192 {
		t.Errorf("%d bytes, %v; want those of one file of 4096", bytes, err)
	}
}

// TestCaptureGroup runs the whole group with little work. What the figures are is
// not looked at but where they do not depend on time.
func TestCaptureGroup(t *testing.T) {
	if refused(t) {
		t.Skip("userfaultfd is not permitted here; run as root or set vm.unprivileged_userfaultfd=1")
	}
	bin, dir := programs(t), shortdir.Make(t)
	little := tiny()
	little.captureSize = captureSize{
		forkRounds: 2, smallGuest: 32 << 20, largeGuest: 256 << 20,
		pauseRounds: 2, dirty: 4 << 20, parked: 64 << 20, parkRounds: 1,
		stackGuest: 64 << 20, stackLayers: 3, stackPages: 100, openRounds: 2,
	}
	report, err := Run(t.Context(), Options{
		Group: "capture", Dir: dir, Version: "v1", size: little,
		PagerBinary: filepath.Join(bin, "faultline-pager"), SimulatorBinary: filepath.Join(bin, "fcsim"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"fork_memory_bytes", "fork_time_8g_vs_1g", "capture_bytes_vs_dirty", "pause_staged_vs_disk",
		"first_park_vs_copy", "open_16_layers_ms", "open_16_layers_mib",
	}
	var got []string
	for _, c := range report.Cases {
		got = append(got, c.Name)
		if c.Value == nil && c.Name != "pause_staged_vs_disk" {
			t.Errorf("%s was skipped: %s", c.Name, c.Skipped)
		}
		if c.Limit == nil || c.Value != nil && c.Detail == "" {
			t.Errorf("%+v lacks its limit or detail", c)
		}
		if c.Name == "fork_memory_bytes" && c.Value != nil && *c.Value != 0 && filesystem(dir) != "tmpfs" {
			t.Errorf("forks moved %v bytes of memory", *c.Value)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("cases %v, want %v", got, want)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}
