package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/guest"
)

// boot runs the program of a workload until it is ready and idle.
func boot(t interface {
	Helper()
	Fatal(args ...any)
}, w guest.Workload, opts Options, prepare func(e *emulator)) *emulator {
	t.Helper()
	code, err := assemble(w, max(w.End(), 32<<20), opts)
	if err != nil {
		t.Fatal(err)
	}
	e := newEmulator(code)
	if prepare != nil {
		prepare(e)
	}
	if err := e.run(20_000_000, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// reports parses and removes what the program has printed.
func (e *emulator) reports(t interface {
	Helper()
	Fatal(args ...any)
}) []guest.Report {
	t.Helper()
	var reports []guest.Report
	for line := range strings.Lines(string(e.output)) {
		r, ok, err := guest.ParseReport(line)
		if !ok || err != nil || line != r.String()+"\n" {
			t.Fatal("not a report:", line, err)
		}
		reports = append(reports, r)
	}
	e.output = nil
	return reports
}

func drawWorkload(t *rapid.T) guest.Workload {
	w := guest.Workload{
		Pages:   rapid.Uint64Range(1, 40).Draw(t, "pages"),
		Spread:  rapid.Uint64Range(1, 5).Draw(t, "spread"),
		Words:   1 << rapid.IntRange(1, 9).Draw(t, "log words"),
		Classes: 1 << rapid.IntRange(0, 9).Draw(t, "log classes"),
		Seed:    rapid.Uint64().Draw(t, "seed"),
		Step:    1,
	}
	if rapid.Bool().Draw(t, "scatter") {
		w.Step = guest.ScatterStep(w.Pages) + w.Pages*rapid.Uint64Range(0, 2).Draw(t, "turns")
	}
	return w
}

// TestProgramDoesWhatTheModelDoes compares every answer and every page.
func TestProgramDoesWhatTheModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, id := drawWorkload(t), rapid.Uint64().Draw(t, "id")
		e := boot(t, w, Options{}, func(e *emulator) {
			binary.LittleEndian.PutUint64(e.page(guest.IdentityAddress)[:], id)
			e.clock = rapid.Uint64Range(0, 1<<62).Draw(t, "clock")
		})
		m, ready := newModel(w, id)
		if diff := cmp.Diff([]guest.Report{ready}, e.reports(t)); diff != "" {
			t.Fatal("ready (-model +program):\n" + diff)
		}
		for _, command := range rapid.SliceOfN(rapid.SampledFrom([]byte("pcwsX")), 1, 8).Draw(t, "commands") {
			if rapid.IntRange(0, 3).Draw(t, "spoil") == 0 {
				p := rapid.Uint64Range(0, w.Pages-1).Draw(t, "page")
				at := w.WordOffset(rapid.Uint64Range(0, w.Words-1).Draw(t, "word")) + rapid.Uint64Range(0, 7).Draw(t, "byte")
				m.pages[p][at] ^= 0x40
				e.page(w.Address(p))[at] ^= 0x40
			}
			e.input, e.clocks = append(e.input, command), nil
			if err := e.run(20_000_000, nil); err != nil {
				t.Fatal(err)
			}
			var want []guest.Report
			if command != 'X' {
				clock := uint64(0)
				if command == guest.CommandWrite {
					clock = e.clocks[0]
				}
				want = append(want, m.obey(command, clock))
			}
			if diff := cmp.Diff(want, e.reports(t)); diff != "" {
				t.Fatalf("%c (-model +program):\n%s", command, diff)
			}
			for p := range w.Pages {
				if !bytes.Equal(m.pages[p], e.page(w.Address(p))[:]) {
					t.Fatalf("%c: page %d differs", command, p)
				}
			}
		}
	})
}

func TestCommandsThatWaitAreObeyedInOrder(t *testing.T) {
	e := boot(t, guest.Default(3), Options{}, func(e *emulator) { e.input = []byte("pwc?s") })
	var kinds []guest.Kind
	for _, r := range e.reports(t) {
		kinds = append(kinds, r.Kind)
	}
	if diff := cmp.Diff([]guest.Kind{guest.Ready, guest.Pong, guest.Write, guest.Check, guest.Stop}, kinds); diff != "" {
		t.Error(diff)
	}
	if e.wakes != 0 {
		t.Errorf("halted %d times with commands waiting", e.wakes)
	}
}

func TestAutoModeWritesAndChecksUntilStopped(t *testing.T) {
	w := guest.Default(5)
	w.Words = 4
	for _, byBoot := range []bool{true, false} {
		w.Auto = byBoot
		code, err := assemble(w, 32<<20, Options{})
		if err != nil {
			t.Fatal(err)
		}
		e := newEmulator(code)
		if !byBoot {
			e.input = []byte{guest.CommandAuto}
		}
		lines := func(n int) func() bool { return func() bool { return bytes.Count(e.output, []byte("\n")) >= n } }
		for _, stage := range []struct {
			until   func() bool
			command byte
		}{{lines(5), guest.CommandPing}, {lines(8), guest.CommandStop}, {nil, guest.CommandPing}, {nil, 0}} {
			if err := e.run(1_000_000, stage.until); err != nil {
				t.Fatal(err)
			}
			e.input = append(e.input, stage.command)
		}
		var got []string
		for _, r := range e.reports(t) {
			got = append(got, string(r.Kind))
			if r.Bad != 0 || r.First != guest.NoPage {
				t.Errorf("wrong pages: %v", r)
			}
		}
		if s := strings.Join(got, " "); s != "ready write check write check pong write check stop pong" {
			t.Errorf("auto by boot %v: %s", byBoot, s)
		}
	}
}

func TestIdleProgramHaltsAndWritesNothing(t *testing.T) {
	e := boot(t, guest.Default(2), Options{}, nil)
	if !e.interrupts {
		t.Fatal("halted with interrupts disabled")
	}
	before := map[uint64][guest.PageSize]byte{}
	for n, page := range e.pages {
		before[n] = *page
	}
	if err := e.run(1000, nil); err != nil {
		t.Fatal(err)
	}
	for n, page := range e.pages {
		if before[n] != *page {
			t.Errorf("page %#x changed", n*guest.PageSize)
		}
	}
	e.input = []byte{guest.CommandPing}
	if err := e.run(100_000, nil); err != nil {
		t.Fatal(err)
	}
	if e.wakes != 1 {
		t.Errorf("%d interrupts for one command", e.wakes)
	}
}

// TestFootprint pins down which pages a guest has: a capture holds them all.
func TestFootprint(t *testing.T) {
	w := guest.Default(3)
	w.Spread = 700 << 20 / guest.PageSize // the second and third page lie in GiB 0 and 1
	e := boot(t, w, Options{}, nil)
	allowed := map[uint64]bool{0x9: true, 0xa: true, 0xb: true}
	for _, at := range []uint64{guest.EntryAddress, dataAddress, guest.StateAddress, guest.IdentityAddress,
		tablesAddress, tablesAddress + guest.PageSize, w.Address(0), w.Address(1), w.Address(2)} {
		allowed[at/guest.PageSize] = true
	}
	for n := range e.pages {
		if !allowed[n] {
			t.Errorf("touched page %#x", n*guest.PageSize)
		}
		delete(allowed, n)
	}
	if len(allowed) != 0 {
		t.Errorf("did not touch %v", allowed)
	}
}

func TestMemoryAboveTheFirstGiBIsMapped(t *testing.T) {
	for _, spread := range []uint64{400 << 20, 1000 << 20, 1500 << 20} {
		w := guest.Workload{Pages: 3, Spread: spread / guest.PageSize, Step: 1, Words: 2, Classes: 2, Seed: 7}
		if w.End() > MaxEnd {
			w.Pages = 2
		}
		e := boot(t, w, Options{}, nil)
		for p := range w.Pages {
			if !guest.CheckPage(e.page(w.Address(p))[:], w, 7, p) {
				t.Errorf("spread %d MiB: page %d is wrong", spread>>20, p)
			}
		}
	}
}

// TestRate counts the cycles between page visits, not time.
func TestRate(t *testing.T) {
	w := guest.Workload{Pages: 9, Spread: 1, Step: 1, Words: 2, Classes: 4, Seed: 1, Rate: 100}
	e := boot(t, w, Options{TSCHz: 1_000_000}, nil)
	const interval = 10_000
	e.input = []byte{guest.CommandCheck}
	start := e.clock
	if err := e.run(1_000_000, nil); err != nil {
		t.Fatal(err)
	}
	if took := e.clock - start; took < (w.Pages-1)*interval || took > (w.Pages+1)*interval {
		t.Errorf("a check of %d pages took %d cycles at one page per %d", w.Pages, took, interval)
	}
	e.reports(t)

	// A clock that has jumped far back or far ahead must not stall the guest.
	for _, clock := range []uint64{5, e.clock << 20} {
		e.clock = clock
		e.input = []byte("wc")
		if err := e.run(1_000_000, nil); err != nil {
			t.Fatal(err)
		}
		if r := e.reports(t); len(r) != 2 || r[1].Bad != 0 {
			t.Errorf("clock %d: %v", clock, r)
		}
	}
}

func TestBuildIsAnELFOfOneSegment(t *testing.T) {
	w := guest.Default(1024)
	image, err := Build(w, 64<<20, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || f.Entry != guest.EntryAddress || len(f.Progs) != 1 {
		t.Fatalf("header: %+v, %d segments", f.FileHeader, len(f.Progs))
	}
	got, err := io.ReadAll(f.Progs[0].Open())
	if err != nil {
		t.Fatal(err)
	}
	want, err := assemble(w, 64<<20, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p := f.Progs[0]; p.Type != elf.PT_LOAD || p.Paddr != guest.EntryAddress || p.Off%p.Align != p.Vaddr%p.Align || !bytes.Equal(got, want) {
		t.Errorf("segment %+v does not hold the program", p.ProgHeader)
	}
}

func TestBuildRefusesWhatItCannotRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *guest.Workload)
		memory uint64
		want   string
	}{
		{"invalid", func(w *guest.Workload) { w.Words = 3 }, 64 << 20, "power of two"},
		{"too large", func(w *guest.Workload) { w.Pages = 1 << 20 }, 64 << 20, "use fewer pages or more memory"},
		{"in the gap", func(w *guest.Workload) { w.Spread = 1 << 16 }, 1 << 40, "above the 3072 MiB"},
		{"free", func(w *guest.Workload) { w.Free = 1 }, 64 << 20, "balloon"},
		{"rate", func(w *guest.Workload) { w.Rate = 1 }, 64 << 20, "set TSCHz"},
	} {
		w := guest.Default(256)
		c.change(&w)
		if _, err := Build(w, c.memory, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	w := guest.Workload{Pages: 2, Spread: (MaxEnd - guest.BaseAddress - guest.PageSize) / guest.PageSize, Step: 1, Words: 2, Classes: 1}
	if _, err := Build(w, 4<<30, Options{}); err != nil || w.End() != MaxEnd {
		t.Errorf("a workload that ends at %#x: %v", w.End(), err)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add(uint64(16), uint64(1), uint64(1), uint64(8), uint64(16), uint64(0), uint64(64<<20))
	f.Add(uint64(1), uint64(1<<36), uint64(0), uint64(512), uint64(512), uint64(1000), uint64(1<<40))
	f.Fuzz(func(t *testing.T, pages, spread, step, words, classes, rate, memory uint64) {
		w := guest.Workload{Pages: pages, Spread: spread, Step: step, Words: words, Classes: classes, Rate: rate}
		if image, err := Build(w, memory, Options{TSCHz: 2e9}); err == nil && len(image) > codeOffset+dataAddress-guest.EntryAddress {
			t.Errorf("%d bytes", len(image))
		}
	})
}
