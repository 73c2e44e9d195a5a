package fcsim

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// freeHugePages is the number of 2 MiB pages that nobody uses.
func freeHugePages(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	if err != nil {
		t.Skipf("this kernel has no 2 MiB pages (%v); use one with CONFIG_HUGETLBFS", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hugeWorkload touches 6 pages of 2 MiB with its 1000 pages, fixed ones included.
func hugeWorkload() guest.Workload {
	w := guest.Default(1000)
	w.Seed = 3
	return w
}

func TestHugePages(t *testing.T) {
	const needed = 48 // a source's touched pages and a fork's, all of which are dumped
	if free := freeHugePages(t); free < needed {
		t.Skipf("%d free pages of 2 MiB, %d are needed; raise vm.nr_hugepages", free, needed)
	}
	source := capture(t, hugeWorkload(), object{"mem_size_mib": 32, "huge_pages": "2M", "track_dirty_pages": true})
	source.resume()
	source.check()

	refusing := startProcess(t, shortdir.Make(t))
	message := refusing.refused("PUT", "/snapshot/load", load(source.path("full.state"), "File", source.path("full.mem"), nil))
	if !strings.Contains(message, "Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.") {
		t.Error(message)
	}

	pager := startPager(t, source.path("full.mem"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "Uffd", pager.path, object{"track_dirty_pages": true}))
	fork.check()
	<-pager.ready
	if got := pager.mappings[0]; got.PageSize != hugePageSize || got.PageSizeKiB != hugePageSize {
		t.Errorf("mapping %+v", got)
	}
	if got := pager.faults.Load(); got > 16 {
		t.Errorf("%d faults in 16 pages", got)
	}
	// A balloon of small pages takes nothing from large ones.
	fork.ok("PATCH", "/balloon", object{"amount_mib": 4})
	waitForBalloon(fork, `"actual_pages":1024`)
	if got := pager.removed.Load(); got != 0 {
		t.Errorf("%d bytes removed", got)
	}
	written := fork.write()
	fork.check()
	fork.pause()
	fork.snapshot("Diff", "diff")
	if got := blocks(t, fork.path("diff.mem")); got > int64(written.Pages+4)*pageSize {
		t.Errorf("a diff of %d small pages has %d bytes allocated", written.Pages, got)
	}
	fork.snapshot("Full", "again")
}

// TestHugePagePoolRunsDry: nothing is reserved, so the shortage shows when the
// VMM or the guest touches a page, and the process ends as Firecracker does.
func TestHugePagePoolRunsDry(t *testing.T) {
	free := freeHugePages(t)
	if overcommit, err := os.ReadFile("/proc/sys/vm/nr_overcommit_hugepages"); err != nil || strings.TrimSpace(string(overcommit)) != "0" {
		t.Skip("the pool of 2 MiB pages grows on demand; set vm.nr_overcommit_hugepages to 0")
	}
	if free > 100 {
		t.Skipf("%d free pages of 2 MiB are too many to use up here; lower vm.nr_hugepages", free)
	}
	p := startProcess(t, shortdir.Make(t))
	if err := os.WriteFile(p.path("kernel"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := guest.Default(uint64(free) + 20)
	w.Spread = hugePageSize / pageSize
	p.ok("PUT", "/machine-config", object{"vcpu_count": 1, "mem_size_mib": 2 * (free + 30), "huge_pages": "2M"})
	p.ok("PUT", "/boot-source", object{"kernel_image_path": "kernel", "boot_args": w.BootArgs()})
	// The process may be gone before it can answer.
	_, _, _ = p.try("PUT", "/actions", object{"action_type": "InstanceStart"})
	if code := p.exitCode(); code != exitSIGBUS {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

func TestVersionsAreFCSims(t *testing.T) {
	if !regexp.MustCompile(`^\d+\.\d+\.\d+\+fcsim$`).MatchString(SnapshotVersion) {
		t.Errorf("snapshot version %q could be taken for Firecracker's", SnapshotVersion)
	}
	if formatVersion() == [3]uint16{} {
		t.Error("the format has no version")
	}
}
