package kernel

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func workload(pages uint64) guest.Workload {
	return guest.Workload{Pages: pages, Spread: 2, Step: guest.ScatterStep(pages), Words: 8, Classes: 4, Seed: 0xfeed}
}

// checked sends a check and expects it to find what is given, and nothing else.
func checked(t *testing.T, v *vmm, w guest.Workload, bad, first uint64) {
	t.Helper()
	r := v.command(guest.CommandCheck, guest.Check)
	if r.Pages != w.Pages || r.Bad != bad || r.First != first {
		t.Errorf("%v: want %d wrong pages of %d, the first %#x", r, bad, w.Pages, first)
	}
}

// TestFirecrackerGuestSurvivesCaptureAndRestore takes a guest through the life
// that the project is about.
func TestFirecrackerGuestSurvivesCaptureAndRestore(t *testing.T) {
	v, dir, w := startFirecracker(t), shortdir.Make(t), workload(1024)
	if diff := cmp.Diff(guest.Report{Kind: guest.Ready, Pages: w.Pages, First: guest.NoPage, Seed: w.Seed}, v.boot(w, 64, Options{})); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(guest.Report{Kind: guest.Pong, First: guest.NoPage, Seed: w.Seed}, v.command(guest.CommandPing, guest.Pong)); diff != "" {
		t.Fatal(diff)
	}
	checked(t, v, w, 0, guest.NoPage)
	wrote := v.command(guest.CommandWrite, guest.Write)
	if wrote.Pass != 1 || wrote.Pages != w.Pages/w.Classes || wrote.Seed == w.Seed {
		t.Errorf("write: %v", wrote)
	}
	checked(t, v, w, 0, guest.NoPage)

	v.pause()
	state, memory := filepath.Join(dir, "vmstate"), filepath.Join(dir, "mem")
	v.capture("Full", state, memory)
	verifyMemoryFile(t, memory, w, wrote)

	// A fork reads its identity from memory, and draws seeds of its own.
	fork := startFirecracker(t)
	forkMemory := copyAndPatch(t, memory, guest.IdentityAddress, 0x42)
	fork.restore(state, forkMemory)
	if r := fork.command(guest.CommandPing, guest.Pong); r.ID != 0x42 || r.Pass != 1 || r.Seed != wrote.Seed {
		t.Errorf("restored: %v", r)
	}
	checked(t, fork, w, 0, guest.NoPage)
	forkWrote := fork.command(guest.CommandWrite, guest.Write)
	checked(t, fork, w, 0, guest.NoPage)

	v.call("PATCH", "/vm", map[string]any{"state": "Resumed"})
	if again := v.command(guest.CommandWrite, guest.Write); again.Pass != 2 || again.Seed == forkWrote.Seed {
		t.Errorf("the source drew %v, its fork %v", again, forkWrote)
	}
	checked(t, v, w, 0, guest.NoPage)

	// One wrong byte is one wrong page.
	const wrong = 777
	spoiled := startFirecracker(t)
	spoiled.restore(state, copyAndPatch(t, memory, int64(w.Address(wrong)+w.WordOffset(3)+5), 0x11))
	checked(t, spoiled, w, 1, wrong)
}

// verifyMemoryFile checks the pages of a memory file from outside.
func verifyMemoryFile(t *testing.T, path string, w guest.Workload, wrote guest.Report) {
	t.Helper()
	memory, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if seed := binary.LittleEndian.Uint64(memory[guest.StateAddress+8*(wrote.Pass%w.Classes):]); seed != wrote.Seed {
		t.Errorf("seed of the written class is %#x in memory, %#x in the report", seed, wrote.Seed)
	}
	for p := range w.Pages {
		seed := binary.LittleEndian.Uint64(memory[guest.StateAddress+8*(p%w.Classes):])
		if at := w.Address(p); !guest.CheckPage(memory[at:at+guest.PageSize], w, seed, p) {
			t.Fatalf("page %d is wrong in the memory file", p)
		}
	}
}

// copyAndPatch copies a memory file and changes one byte of the copy.
func copyAndPatch(t *testing.T, path string, at int64, b byte) string {
	t.Helper()
	memory, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if memory[at] == b {
		b ^= 0xff
	}
	memory[at] = b
	patched := filepath.Join(t.TempDir(), "mem")
	if err := os.WriteFile(patched, memory, 0o600); err != nil {
		t.Fatal(err)
	}
	return patched
}

// TestFirecrackerIdleGuestDirtiesNothing is what makes captures of idle guests
// cheap.
func TestFirecrackerIdleGuestDirtiesNothing(t *testing.T) {
	v, dir := startFirecracker(t), shortdir.Make(t)
	v.boot(workload(64), 32, Options{})
	for i, capture := range []struct{ kind, name string }{{"Full", "full"}, {"Diff", "diff"}} {
		v.pause()
		v.capture(capture.kind, filepath.Join(dir, capture.name+".state"), filepath.Join(dir, capture.name))
		v.call("PATCH", "/vm", map[string]any{"state": "Resumed"})
		if i == 0 {
			continue
		}
		var stat syscall.Stat_t
		if err := syscall.Stat(filepath.Join(dir, capture.name), &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Blocks != 0 {
			t.Errorf("the guest dirtied %d KiB between two captures", stat.Blocks/2)
		}
	}
	v.command(guest.CommandPing, guest.Pong)
}

func TestFirecrackerAutoMode(t *testing.T) {
	v, w := startFirecracker(t), workload(64)
	w.Auto = true
	v.boot(w, 32, Options{})
	for pass := uint64(1); pass <= 6; pass++ {
		if r := v.report(guest.Write); r.Pass != pass {
			t.Errorf("write %d: %v", pass, r)
		}
		if r := v.report(guest.Check); r.Bad != 0 || r.Pages != w.Pages {
			t.Errorf("check %d: %v", pass, r)
		}
	}
	if _, err := v.stdin.Write([]byte{guest.CommandStop}); err != nil {
		t.Fatal(err)
	}
	for v.next().Kind != guest.Stop {
	}
	v.command(guest.CommandPing, guest.Pong) // and nothing in between
}

// TestFirecrackerCaptureInTheMiddleOfAPass takes a fork of a guest that works.
func TestFirecrackerCaptureInTheMiddleOfAPass(t *testing.T) {
	v, dir, w := startFirecracker(t), shortdir.Make(t), workload(512)
	w.Auto = true
	v.boot(w, 32, Options{})
	v.report(guest.Write)
	v.report(guest.Check)
	v.pause()
	v.capture("Full", filepath.Join(dir, "vmstate"), filepath.Join(dir, "mem"))
	fork := startFirecracker(t)
	fork.restore(filepath.Join(dir, "vmstate"), filepath.Join(dir, "mem"))
	for _, v := range []*vmm{fork, v} {
		if v != fork {
			v.call("PATCH", "/vm", map[string]any{"state": "Resumed"})
		}
		for checks := 0; checks < 3; {
			r := v.next()
			if r.Bad != 0 || r.Kind == guest.Check && r.Pages != w.Pages {
				t.Errorf("after the capture: %v", r)
			}
			if r.Kind == guest.Check {
				checks++
			}
		}
	}
}

func TestFirecrackerMemoryAboveTheFirstGiB(t *testing.T) {
	for _, mib := range []uint64{3072, 4096} { // 4096 splits the memory around the devices
		v := startFirecracker(t)
		w := workload(32)
		w.Spread = (MaxEnd-guest.BaseAddress)/guest.PageSize/w.Pages - 1
		v.boot(w, mib, Options{})
		checked(t, v, w, 0, guest.NoPage)
		v.command(guest.CommandWrite, guest.Write)
		checked(t, v, w, 0, guest.NoPage)
	}
}

func TestFirecrackerRate(t *testing.T) {
	v, w := startFirecracker(t), workload(64)
	hz, err := TSCHz()
	if err != nil {
		t.Fatal(err)
	}
	if hz < 100e6 || hz > 20e9 {
		t.Errorf("a cycle counter of %d Hz", hz)
	}
	w.Rate = 1000
	v.boot(w, 32, Options{TSCHz: hz})
	checked(t, v, w, 0, guest.NoPage)
}
