package contract

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func (s suite) testDiff(t *testing.T) {
	t.Run("Tracked", s.testTrackedDiff)
	t.Run("WhileLoadingLazily", s.testLazyDiff)
	t.Run("Untracked", s.testUntrackedDiff)
}

// testTrackedDiff takes diffs of a guest whose writes are tracked: each holds what
// was written since the last, in place, and nothing else of the workload.
func (s suite) testTrackedDiff(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	base := source.snapshot(hypervisor.Full, "base")
	source.resume()

	idle := func(name string) {
		t.Helper()
		source.pause()
		requireDiff(t, source.snapshot(hypervisor.Diff, name), w, func(uint64) bool { return false })
		source.resume()
	}
	idle("idle")
	var diffs []capture
	for _, name := range []string{"first", "second"} {
		class := source.write()
		source.pause()
		c := source.snapshot(hypervisor.Diff, name)
		requireDiff(t, c, w, func(page uint64) bool { return page%w.Classes == class })
		diffs = append(diffs, c)
		source.resume()
	}
	idle("idle again")
	source.check()

	t.Run("Flattened", func(t *testing.T) {
		flat := capture{state: diffs[1].state, memory: filepath.Join(shortdir.Make(t), "flat")}
		flatten(t, flat.memory, base.memory, diffs[0].memory, diffs[1].memory)
		openMemory(t, flat.memory).requirePages(w, func(uint64) bool { return true })
		s.restore(t, shortdir.Make(t), w, flat.fromFile()).check()
	})
	t.Run("IntoTheBase", func(t *testing.T) {
		// Into a file of the right size a diff is written in place: it becomes
		// the newer full image, and the older one is no more.
		m := s.restore(t, shortdir.Make(t), w, base.fromFile())
		merged := filepath.Join(m.dir, "merged.memory")
		copyFile(t, base.memory, merged)
		before, err := os.Stat(merged)
		if err != nil {
			t.Fatal(err)
		}
		m.write()
		m.pause()
		c := m.snapshot(hypervisor.Diff, "merged")
		if after, err := os.Stat(merged); err != nil || !os.SameFile(before, after) {
			t.Errorf("the memory file was replaced, error %v", err)
		}
		openMemory(t, merged).requirePages(w, func(uint64) bool { return true })
		s.restore(t, shortdir.Make(t), w, c.fromFile()).check()
	})
}

// requireDiff checks which pages of the workload a diff holds.
func requireDiff(t *testing.T, c capture, w guest.Workload, want func(page uint64) bool) {
	t.Helper()
	memory := openMemory(t, c.memory)
	if memory.size != memoryMiB*mebibyte {
		t.Errorf("the diff's memory file has %d bytes, the guest %d", memory.size, memoryMiB*mebibyte)
	}
	data := memory.data()
	for p := range w.Pages {
		if data[w.Address(p)] != want(p) {
			t.Fatalf("page %d is in the diff: %v, want %v", p, data[w.Address(p)], want(p))
		}
	}
	// Devices and the guest's own state are a few pages more.
	if others := uint64(len(data)) - countPages(w, want); others > 256 {
		t.Errorf("the diff holds %d pages that are not the workload's", others)
	}
}

func countPages(w guest.Workload, which func(uint64) bool) (n uint64) {
	for p := range w.Pages {
		if which(p) {
			n++
		}
	}
	return n
}

// testLazyDiff takes a diff of a guest that has most of its memory still to load:
// the diff must not load it.
func (s suite) testLazyDiff(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	base := source.snapshot(hypervisor.Full, "base")

	pager := servePages(t, base.memory, -1)
	m := s.restore(t, shortdir.Make(t), w, base.fromSocket(pager.socket))
	m.command(guest.CommandPing, guest.Pong)
	class := m.write()
	m.pause()
	faults := pager.faulted()
	c := m.snapshot(hypervisor.Diff, "lazy")
	if got := pager.faulted(); got != faults {
		t.Errorf("the diff loaded pages: %d faults before it, %d after", faults, got)
	}
	requireDiff(t, c, w, func(page uint64) bool { return page%w.Classes == class })

	flat := capture{state: c.state, memory: filepath.Join(shortdir.Make(t), "flat")}
	flatten(t, flat.memory, base.memory, c.memory)
	s.restore(t, shortdir.Make(t), w, flat.fromFile()).check()
	m.resume()
	m.check()

	t.Run("Full", func(t *testing.T) {
		// A Full snapshot of the same guest loads everything.
		pager := servePages(t, base.memory, -1)
		m := s.restore(t, shortdir.Make(t), w, base.fromSocket(pager.socket))
		m.command(guest.CommandPing, guest.Pong)
		m.pause()
		full := m.snapshot(hypervisor.Full, "full")
		if got, want := pager.pages(), memoryMiB*mebibyte/guest.PageSize; got != want {
			t.Errorf("%d pages were loaded for a full snapshot of %d", got, want)
		}
		openMemory(t, full.memory).requirePages(w, func(uint64) bool { return true })
	})
}

// testUntrackedDiff takes diffs without dirty tracking: they hold whatever is
// resident, written or only read, and never get smaller.
func (s suite) testUntrackedDiff(t *testing.T) {
	requireNoSwap(t)
	w := workload()
	source := s.boot(t, w, func(spec *hypervisor.BootSpec) { spec.TrackDirtyPages = false })
	all := func(uint64) bool { return true }
	for _, name := range []string{"first", "second"} {
		source.pause()
		c := source.snapshot(hypervisor.Diff, name)
		requireDiff(t, c, w, all)
		openMemory(t, c.memory).requirePages(w, all)
		source.resume()
	}
	source.pause()
	base := source.snapshot(hypervisor.Full, "base")

	pager := servePages(t, base.memory, -1)
	spec := base.fromSocket(pager.socket)
	spec.TrackDirtyPages = false
	m := s.restore(t, shortdir.Make(t), w, spec)
	m.write()
	m.pause()
	loaded := map[uint64]bool{}
	for _, offset := range pager.servedOffsets() {
		loaded[offset] = true
	}
	c := m.snapshot(hypervisor.Diff, "lazy")
	requireDiff(t, c, w, func(page uint64) bool { return loaded[w.Address(page)] })
}

// requireNoSwap skips the test on a host whose swap would hide resident pages.
func requireNoSwap(t *testing.T) {
	t.Helper()
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil {
		t.Skip("cannot tell whether swap is on; mount /proc")
	}
	lines := 0
	for _, b := range swaps {
		if b == '\n' {
			lines++
		}
	}
	if lines > 1 {
		t.Skip("swap is on, so that resident pages are not all pages; run swapoff -a")
	}
}
