package guest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestFormula pins the formula down: guests of captures outlive this program.
func TestFormula(t *testing.T) {
	for _, c := range []struct{ got, want uint64 }{
		{Mix(0), 0},
		{Mix(1), 0x9e3779b97f4a7c15 ^ 0x9e3779b97f4a7c15>>29},
		{Word(5, 0, 0), Mix(5)},
		{Word(1, 2, 3), Mix(0xafd79b62cfd6504a)},
		{NextSeed(1, 2, 3), Mix(Mix(3) + 3)},
	} {
		if c.got != c.want {
			t.Errorf("%#x, want %#x", c.got, c.want)
		}
	}
}

func TestWordsAreSpreadOverThePage(t *testing.T) {
	for words := uint64(2); words <= MaxWords; words *= 2 {
		w := Workload{Words: words}
		if first, last := w.WordOffset(0), w.WordOffset(words-1); first != 0 || last != PageSize-8 {
			t.Errorf("%d words: first at %d, last at %d", words, first, last)
		}
		for j := uint64(1); j < words; j++ {
			before, at := w.WordOffset(j-1), w.WordOffset(j)
			if at%8 != 0 || at < before+8 || at > before+2*PageSize/words {
				t.Errorf("%d words: word %d at %d after %d", words, j, at, before)
			}
		}
	}
}

func TestScatterStepMeetsEveryPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(1, 5000).Draw(t, "n")
		step, seen, p := ScatterStep(n), map[uint64]bool{}, uint64(0)
		for range n {
			seen[p] = true
			p = (p + step) % n
		}
		if uint64(len(seen)) != n {
			t.Fatalf("step %d meets %d of %d pages", step, len(seen), n)
		}
	})
}

func TestValidate(t *testing.T) {
	const memory = 64 << 20
	whole := uint64(memory-BaseAddress) / PageSize
	for _, c := range []struct {
		name   string
		change func(w *Workload)
		want   string // "" means valid
	}{
		{"default", func(*Workload) {}, ""},
		{"all memory", func(w *Workload) { w.Pages = whole }, ""},
		{"all memory, some free", func(w *Workload) { w.Pages, w.Free = whole-3, 3 }, ""},
		{"one page too many", func(w *Workload) { w.Pages = whole + 1 }, "use fewer pages or more memory"},
		{"free above memory", func(w *Workload) { w.Pages, w.Free = whole-3, 4 }, "needs 4 free pages"},
		{"free that overflows", func(w *Workload) { w.Free = 1 << 52 }, "free pages"},
		{"spread that overflows", func(w *Workload) { w.Spread = 1 << 60 }, "more memory than any guest has"},
		{"no pages", func(w *Workload) { w.Pages = 0 }, "pages must be"},
		{"no spread", func(w *Workload) { w.Spread = 0 }, "spread must be"},
		{"step", func(w *Workload) { w.Step = 6 }, "common factor"},
		{"step of nothing", func(w *Workload) { w.Step = 0 }, "common factor"},
		{"any step of one page", func(w *Workload) { w.Pages, w.Step = 1, 0 }, ""},
		{"one word", func(w *Workload) { w.Words = 1 }, "words must be"},
		{"odd words", func(w *Workload) { w.Words = 24 }, "words must be"},
		{"too many words", func(w *Workload) { w.Words = 1024 }, "words must be"},
		{"no classes", func(w *Workload) { w.Classes = 0 }, "classes must be"},
		{"too many classes", func(w *Workload) { w.Classes = 1024 }, "classes must be"},
		{"two faults", func(w *Workload) { w.Words, w.Classes = 0, 3 }, "words must be a power of two from 2 to 512, not 0\nclasses"},
	} {
		w := Default(256)
		c.change(&w)
		err := w.Validate(memory)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestBootArgsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64()
		w := Workload{
			Pages: n.Draw(t, "pages"), Spread: n.Draw(t, "spread"), Step: n.Draw(t, "step"), Words: n.Draw(t, "words"),
			Classes: n.Draw(t, "classes"), Rate: n.Draw(t, "rate"), Seed: n.Draw(t, "seed"), Free: n.Draw(t, "free"),
			Auto: rapid.Bool().Draw(t, "auto"),
		}
		got, err := ParseBootArgs("console=ttyS0 " + w.BootArgs() + " panic=1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestParseBootArgs(t *testing.T) {
	got, err := ParseBootArgs("quiet faultline.pages=0x10 faultline.auto=1 faultline.pages=17 faultlines.pages=3")
	want := Default(17)
	want.Auto = true
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for args, want := range map[string]string{
		"faultline.pages":                      "not a number",
		"faultline.pages=":                     "not a number",
		"faultline.pages=-1":                   "not a number",
		"faultline.pages=18446744073709551616": "not a number",
		"faultline.page=1":                     "no such workload setting",
		"faultline.=1":                         "no such workload setting",
	} {
		if _, err := ParseBootArgs(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

func FuzzParseBootArgs(f *testing.F) {
	f.Add("")
	f.Add(Default(8).BootArgs())
	f.Add("console=ttyS0 faultline.pages=0b11 faultline.auto=2")
	f.Add("faultline.pages=1=2")
	f.Fuzz(func(t *testing.T, args string) {
		w, err := ParseBootArgs(args)
		if err != nil {
			return
		}
		again, err := ParseBootArgs(w.BootArgs())
		if err != nil || again != w {
			t.Errorf("%q: %+v became %+v (%v)", args, w, again, err)
		}
		if w.Validate(1<<30) == nil && w.End() > 1<<30 {
			t.Errorf("%q: a valid workload ends at %#x", args, w.End())
		}
	})
}
