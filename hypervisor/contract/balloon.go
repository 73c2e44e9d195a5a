package contract

import (
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/guest/linux/linuxtest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// testBalloon inflates the balloon of a guest that is loading lazily: what it
// takes comes to the pager as REMOVE events, and reads as zeros ever after.
func (s suite) testBalloon(t *testing.T) {
	// inflated MiB are asked for, and pages of that much must come back. The
	// guest has more free ones, filled with junk where it is the simulator.
	const inflated = 32
	w := workload()
	source := s.bootBalloonGuest(t, &w, func(spec *hypervisor.BootSpec) {
		spec.Balloon = &hypervisor.Balloon{StatisticsSeconds: 1}
	})
	source.pause()
	base := source.snapshot(hypervisor.Full, "base")
	if err := source.Kill(within(t)); err != nil {
		t.Fatal(err)
	}

	pager := servePages(t, base.memory, -1)
	m := s.restore(t, shortdir.Make(t), w, base.fromSocket(pager.socket))
	if err := m.SetBalloon(within(t), inflated); err != nil {
		t.Fatal(err)
	}
	removed := awaitRemoved(t, pager, inflated*mebibyte/guest.PageSize)
	if config, err := m.API().Balloon(within(t)); err != nil || config.AmountMiB != inflated {
		t.Errorf("balloon %+v, error %v; want %d MiB", config, err, inflated)
	}
	m.pause()
	full := openMemory(t, m.snapshot(hypervisor.Full, "inflated").memory)
	zero, junk := string(make([]byte, guest.PageSize)), 0
	before := openMemory(t, base.memory)
	for _, offset := range removed {
		if string(full.at(offset)) != zero {
			t.Fatalf("the page at %#x went into the balloon and is not zero", offset)
		}
		// The snapshot read the page: were it still there, nobody would have
		// asked the pager for it again.
		if !pager.hasServed(offset) {
			t.Fatalf("the page at %#x went into the balloon and was not given back", offset)
		}
		if string(before.at(offset)) != zero {
			junk++
		}
	}
	// A Linux guest gives pages that it has never used.
	if junk == 0 && !s.target.LinuxBalloon {
		t.Error("the balloon took only pages that had been zero before: that they are zero now shows nothing")
	}
	m.resume()
	if err := m.SetBalloon(within(t), 0); err != nil {
		t.Fatal(err)
	}
	s.requireBalloonGuestWell(t, m)
}

// bootBalloonGuest boots a guest that has a balloon driver and enough free memory.
func (s suite) bootBalloonGuest(t *testing.T, w *guest.Workload, change func(*hypervisor.BootSpec)) *machine {
	t.Helper()
	if !s.target.LinuxBalloon {
		w.Free = 40 * mebibyte / guest.PageSize
		return s.boot(t, *w, change)
	}
	if testing.Short() {
		t.Skip("booting Linux takes half a minute without hardware virtualisation; run without -short")
	}
	g := linuxtest.Require(t)
	spec := hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: shortdir.Make(t), Input: true},
		Kernel:  g.Kernel, Initrd: g.Initrd, BootArgs: g.BootArgs,
		VCPUs: 1, MemoryMiB: memoryMiB, TrackDirtyPages: true,
	}
	change(&spec)
	vmm, err := s.driver().Boot(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, vmm, spec.Dir, *w)
	m.awaitLine("READY", linux.Ready)
	return m
}

// requireBalloonGuestWell checks that the guest still finds its memory right.
func (s suite) requireBalloonGuestWell(t *testing.T, m *machine) {
	t.Helper()
	if !s.target.LinuxBalloon {
		m.check()
		return
	}
	var beat linux.Beat
	m.awaitLine("a beat", func(line string) (found bool) {
		var err error
		if beat, found, err = linux.ParseBeat(line); err != nil {
			t.Fatal(err)
		}
		return found
	})
	if !beat.Right() {
		t.Errorf("after the balloon the guest found its memory wrong: %+v", beat)
	}
}

// awaitLine waits for a console line that is wanted.
func (m *machine) awaitLine(what string, wanted func(line string) bool) {
	m.t.Helper()
	ctx := within(m.t)
	for {
		line, err := m.console.Next(ctx)
		if err != nil {
			m.t.Fatalf("waiting for %s on the console: %v", what, err)
		}
		if wanted(line.Text) {
			return
		}
	}
}

// awaitRemoved waits until so many pages were removed, and returns them.
func awaitRemoved(t *testing.T, pager *testPager, pages int) []uint64 {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		removed := pager.removedOffsets()
		if len(removed) >= pages {
			return removed
		}
		if time.Now().After(deadline) {
			t.Fatalf("the balloon took %d pages, want %d", len(removed), pages)
		}
	}
}
