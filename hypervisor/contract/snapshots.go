package contract

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// testSnapshotFiles looks into the files of a Full snapshot.
func (s suite) testSnapshotFiles(t *testing.T) {
	w := workload()
	w.Spread, w.Step = 3, guest.ScatterStep(w.Pages)
	m := s.boot(t, w, nil)
	m.write()
	m.pause()
	c := m.snapshot(hypervisor.Full, "base")

	memory := openMemory(t, c.memory)
	if memory.size != memoryMiB*mebibyte {
		t.Errorf("the memory file has %d bytes, the guest %d", memory.size, memoryMiB*mebibyte)
	}
	memory.requirePages(w, func(uint64) bool { return true })
	for p := range w.Pages - 1 {
		if gap := w.Address(p) + guest.PageSize; string(memory.at(gap)) != string(make([]byte, guest.PageSize)) {
			t.Fatalf("offset %#x of the memory file, which the guest never wrote, is not zero", gap)
		}
	}

	t.Run("InPlace", func(t *testing.T) {
		// A memory file of the right size is written, not replaced: this is why
		// captures always name new files.
		before, err := os.Stat(c.memory)
		if err != nil {
			t.Fatal(err)
		}
		m.snapshot(hypervisor.Full, "base")
		if after, err := os.Stat(c.memory); err != nil || !os.SameFile(before, after) {
			t.Errorf("a second snapshot replaced the memory file, error %v", err)
		}
	})
	t.Run("OtherSize", func(t *testing.T) {
		path := filepath.Join(m.dir, "other.memory")
		if err := os.WriteFile(path, make([]byte, 100<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		other := m.snapshot(hypervisor.Full, "other")
		file := openMemory(t, other.memory)
		if file.size != memoryMiB*mebibyte {
			t.Errorf("a memory file of another size has %d bytes now", file.size)
		}
		file.requirePages(w, func(uint64) bool { return true })
	})
	t.Run("LongerMemoryFile", func(t *testing.T) {
		long := capture{state: c.state, memory: filepath.Join(m.dir, "long.memory")}
		copyFile(t, c.memory, long.memory)
		if err := os.Truncate(long.memory, memoryMiB*mebibyte+mebibyte); err != nil {
			t.Fatal(err)
		}
		s.restore(t, shortdir.Make(t), w, long.fromFile()).check()
	})
	m.resume()
	m.check()
}
