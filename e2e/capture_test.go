package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// host is a data directory with a pager, and a hypervisor.
type host struct {
	t     *testing.T
	dir   string
	hv    *firecracker.Driver
	pager *supervisor.Process
	w     guest.Workload
	area  *stage.Area // for guests that run on
}

func newHost(t *testing.T, binary firecracker.Binary) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, process := range processesOf(t, dir) {
			t.Errorf("still running: %s", process)
		}
		os.RemoveAll(dir)
	})
	for _, name := range []string{"instances", "snapshots"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pager, err := supervisor.Start(t.Context(), supervisor.Options{Binary: filepath.Join(binaries, "faultline-pager"), DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pager.Kill(); err != nil {
			t.Error(err)
		}
	})
	hv := firecracker.New(firecracker.Config{Binary: binary, DieWithParent: true})
	return &host{t: t, dir: dir, hv: hv, pager: pager, w: smallWorkload(), area: newArea(t)}
}

// newArea opens a place in memory for captures, and checks at the end that nothing
// was left there. It is nil where there is no such place: captures then go to disk.
func newArea(t *testing.T) *stage.Area {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fl")
	if err != nil {
		t.Logf("captures are not staged: %v; mount a tmpfs at /dev/shm", err)
		return nil
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	area, _, err := stage.Open(stage.Config{Dir: dir, Budget: 256 << 20})
	if err != nil {
		t.Logf("captures are not staged: %v", err)
		return nil
	}
	t.Cleanup(func() {
		if u := area.Usage(); u.Stages != 0 {
			t.Errorf("still staged: %+v", u)
		}
		if err := area.Close(); err != nil {
			t.Error(err)
		}
	})
	return area
}

func (h *host) instance(name string) string { return filepath.Join(h.dir, "instances", name) }

// boot boots the source with a disk, and gives it its lineage.
func (h *host) boot(name string) (*machine, *capture.Lineage) {
	h.t.Helper()
	dir := h.instance(name)
	if err := os.MkdirAll(filepath.Join(dir, capture.DisksDir), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.disk(name), make([]byte, 1<<20), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return bootMachine(h.t, h.hv, dir, h.w), capture.Booted(true)
}

func (h *host) disk(name string) string {
	return filepath.Join(h.instance(name), capture.DisksDir, "data")
}

// take captures a machine, and ends it if asked to.
func (h *host) take(m *machine, l *capture.Lineage, stop bool) capture.Result {
	h.t.Helper()
	result, err := capture.Take(within(h.t), capture.Request{
		VMM: m.VMM, Hypervisor: h.hv.Describe(), Lineage: l, Stop: stop, Disks: []capture.Disk{{Name: "data"}},
		Stages: h.area, MemoryBytes: machineMiB << 20,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if want := h.area != nil && !stop; result.Staged != want {
		h.t.Errorf("the capture was staged: %v, because %v", result.Staged, result.Unstaged)
	}
	return result
}

// restore starts a VMM in an instance's directory whose memory comes lazily from
// its capture, a stack or not.
func (h *host) restore(name, session string, c capture.Capture) *machine {
	h.t.Helper()
	s, err := h.pager.CreateSession(within(h.t), control.SessionRequest{ID: session, Image: c.ManifestPath()})
	if err != nil {
		h.t.Fatal(err)
	}
	relative, err := filepath.Rel(h.instance(name), c.StatePath())
	if err != nil {
		h.t.Fatal(err)
	}
	vmm, err := h.hv.Restore(within(h.t), hypervisor.RestoreSpec{
		Process: hypervisor.Process{Dir: h.instance(name), Input: true}, StatePath: relative,
		Memory: hypervisor.Memory{Backend: hypervisor.Uffd, Path: s.Socket}, TrackDirtyPages: true, Resume: true,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return newMachine(h.t, vmm, h.w)
}

// end closes the session of a VMM that has ended, and returns what it counted.
func (h *host) end(session string) control.Stats {
	h.t.Helper()
	s, err := h.pager.CloseSession(within(h.t), session)
	if err != nil {
		h.t.Fatal(err)
	}
	if s.State != control.Ended {
		h.t.Errorf("session %s is %s: %s", session, s.State, s.Reason)
	}
	return s.Stats
}

func (h *host) remove(dir string) {
	h.t.Helper()
	if err := capture.Remove(dir); err != nil {
		h.t.Fatal(err)
	}
}

// TestForksOutliveTheirSource: ten forks of a snapshot lose both the snapshot and
// its source before they have read a page. Each of them pages in lazily, is right,
// writes, parks, comes back from its own stack and is right again.
func TestForksOutliveTheirSource(t *testing.T) {
	forEachHypervisor(t, func(t *testing.T, binary firecracker.Binary) {
		const forks = 10
		h := newHost(t, binary)
		source, lineage := h.boot("source")
		source.check()
		h.take(source, lineage, false)
		source.write()
		source.check()
		// A capture that is a stack already, of a guest that runs on.
		second := h.take(source, lineage, false)
		if second.Capture.Record.Kind != memimage.Diff {
			t.Fatalf("the second capture is %s: %s", second.Capture.Record.Kind, second.Why)
		}
		snapshot, err := capture.Link(t.Context(), second.Capture, filepath.Join(h.dir, "snapshots", "golden"))
		if err != nil {
			t.Fatal(err)
		}
		var owned []capture.Capture
		for i := range forks {
			f, err := capture.Fork(t.Context(), snapshot.Capture, capture.ForkOptions{Dir: h.instance(fork(i))})
			if err != nil {
				t.Fatal(err)
			}
			owned = append(owned, f.Capture)
			if len(f.Sharing.Reasons) > 0 && f.Sharing.Rungs[memimage.HardLink] == 0 {
				t.Errorf("the fork shares nothing: %v", f.Sharing)
			}
		}
		// The source parks again while the forks share its base.
		source.write()
		source.check()
		h.take(source, lineage, true)
		h.remove(snapshot.Capture.Dir)
		h.remove(h.instance("source"))

		machines := make([]*machine, forks)
		for i := range forks {
			machines[i] = h.restore(fork(i), fork(i), owned[i])
		}
		seeds := map[uint64]int{}
		var parked []capture.Capture
		for i, m := range machines {
			m.check()
			seed := m.write().Seed
			if other, twice := seeds[seed]; twice {
				t.Errorf("forks %d and %d wrote the same pages", i, other)
			}
			seeds[seed] = i
			m.check()
			if err := os.WriteFile(h.disk(fork(i)), fmt.Appendf(nil, "of fork %d", i), 0o600); err != nil {
				t.Fatal(err)
			}
			result := h.take(m, capture.Restored(owned[i], true), true)
			dirty := h.w.Pages / h.w.Classes
			if result.Capture.Record.Kind != memimage.Diff || result.Pages.Data < dirty || result.Pages.Data > dirty+h.w.Pages/8 {
				t.Errorf("fork %d parked with %+v of kind %s, want little more than the %d pages that it wrote",
					i, result.Pages, result.Capture.Record.Kind, dirty)
			}
			parked = append(parked, result.Capture)
			if stats := h.end(fork(i)); stats.Faults == 0 || stats.CopiedPages >= machineMiB<<20/memimage.PageSize {
				t.Errorf("fork %d was not paged in lazily: %+v", i, stats)
			}
		}
		for i := range forks {
			m := h.restore(fork(i), fork(i)+"-again", parked[i])
			if got := m.check(); seeds[got.Seed] != i {
				t.Errorf("fork %d came back as fork %d", i, seeds[got.Seed])
			}
			m.write()
			m.check()
			disk, err := os.ReadFile(filepath.Join(parked[i].Dir, capture.DisksDir, "data"))
			if err != nil || string(disk) != fmt.Sprintf("of fork %d", i) {
				t.Errorf("the disk of fork %d holds %.20q, %v", i, disk, err)
			}
			if err := m.Kill(within(t)); err != nil {
				t.Fatal(err)
			}
			h.end(fork(i) + "-again")
		}
		// Not a name of the source or the snapshot is left.
		for dir, want := range map[string]int{"instances": forks, "snapshots": 0} {
			if entries, err := os.ReadDir(filepath.Join(h.dir, dir)); err != nil || len(entries) != want {
				t.Errorf("%s holds %v, %v", dir, entries, err)
			}
		}
	})
}

func fork(i int) string { return fmt.Sprintf("fork-%02d", i) }
