// Package guest describes the test program that runs inside a microVM: what it
// writes into its memory, how it checks every page of it, and what it says on
// the serial console.
//
// Two things implement the description. The simulator runs it as threads that
// touch real memory; package guest/kernel emits it as a freestanding 64-bit
// program for a real Firecracker. Both take commands as single bytes on the
// serial port and answer with one line each, so whoever drives a guest need not
// know which one it is.
//
// # What a guest does
//
// The guest owns [Workload.Pages] pages of guest-physical memory. It fills all
// of them, prints a ready line, and then obeys commands:
//
//	p  ping:  say pong
//	c  check: compare every page with the formula, say how many were wrong
//	w  write: draw a new seed, rewrite one class of pages with it
//	a  auto:  repeat w and c until s arrives
//	s  stop:  leave auto
//
// Unknown bytes are ignored. Commands are obeyed in order, one at a time.
//
// # The formula
//
// Page p belongs to class p mod [Workload.Classes]. The guest keeps one seed per
// class, in its own memory; the n-th write (n counts from 1) draws a new seed and
// rewrites the pages of class n mod Classes with it. Word j of page p then holds
// [Word](seed of p's class, p, j). A stale page, a page of a sibling fork, a page
// of another offset and a torn page all differ from it.
//
// The package owns no resources and has no state.
package guest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// PageSize is the size of a guest page in bytes. The guest thinks in 4 KiB pages
// even where the VMM backs it with 2 MiB ones.
const PageSize = 4096

// Guest-physical layout, the same for every guest. All addresses lie below the
// 32-bit MMIO gap, so the offset in a memory file equals the address.
const (
	// EntryAddress is where the freestanding program is linked.
	EntryAddress = 8 << 20
	// StateAddress is the first byte of the page that holds the guest's own
	// state: the seed of each class, eight bytes each, little endian.
	StateAddress = 12 << 20
	// IdentityAddress is the page whose first eight bytes, little endian, the
	// guest reports as its identity. The guest never writes it.
	IdentityAddress = 13 << 20
	// BaseAddress is where the workload's pages begin.
	BaseAddress = 16 << 20
)

// MaxClasses bounds Workload.Classes: the seeds must fit into one page.
const MaxClasses = PageSize / 8

// MaxWords is the number of 64-bit words in a page.
const MaxWords = PageSize / 8

// Workload says what a guest does with its memory. It travels to the simulator
// in the kernel's boot arguments and into the freestanding program as constants.
type Workload struct {
	// Pages is the number of pages that the guest fills, checks and rewrites.
	// At least 1.
	Pages uint64
	// Spread is the distance between two consecutive pages, in pages; 1 packs
	// them, larger values leave untouched pages in between. At least 1.
	Spread uint64
	// Step is the distance, in page numbers, between two visits of a pass; 1
	// visits pages in order. It must have no common factor with Pages, so that
	// a pass meets every page once. See [ScatterStep].
	Step uint64
	// Words is how many 64-bit words of each page are written and compared: a
	// power of two from 2 to MaxWords, evenly spread, the first and the last
	// word of the page among them. 512 covers every byte.
	Words uint64
	// Classes is the number of write passes after which every page has been
	// rewritten: each pass writes every Classes-th page. A power of two from 1
	// to MaxClasses.
	Classes uint64
	// Rate bounds the pages visited per second and vCPU, those of the first fill
	// too; 0 means unbounded.
	Rate uint64
	// Seed is the seed of the first fill.
	Seed uint64
	// Free is the number of pages at the top of guest memory that the guest
	// fills with junk at boot and then regards as free: a balloon takes them
	// first, and once taken they must read as zeros. Only the simulator knows
	// it; the freestanding program has no balloon driver.
	Free uint64
	// Auto starts the guest in auto mode instead of waiting for commands.
	Auto bool
}

// Default returns a workload of the given number of pages, packed, visited in
// order, every byte of every page checked, a sixteenth rewritten per pass.
func Default(pages uint64) Workload {
	return Workload{Pages: pages, Spread: 1, Step: 1, Words: MaxWords, Classes: 16, Seed: 1}
}

// ScatterStep returns a step for n pages that visits them in an order without
// locality: close to n divided by the golden ratio, and without a common factor.
func ScatterStep(n uint64) uint64 {
	step := uint64(float64(n) * 0.6180339887498949)
	for step = max(step, 1); gcd(step, n) != 1; step++ {
	}
	return step
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// End returns the guest-physical address behind the last page of the workload.
// The guest's memory must be at least that large.
func (w Workload) End() uint64 {
	return BaseAddress + ((w.Pages-1)*w.Spread+1)*PageSize
}

// Address returns the guest-physical address of page p.
func (w Workload) Address(p uint64) uint64 { return BaseAddress + p*w.Spread*PageSize }

// WordOffset returns the byte offset, within its page, of word j of w.Words.
func (w Workload) WordOffset(j uint64) uint64 {
	chunk := PageSize / w.Words
	return j*chunk + (j&1)*(chunk-8)
}

// Validate reports everything that is wrong with the workload for a guest of
// memory bytes.
func (w Workload) Validate(memory uint64) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case w.Pages < 1:
		fail("pages must be at least 1")
	case w.Spread < 1:
		fail("spread must be at least 1")
	case w.Pages > 1<<36 || w.Spread > 1<<36/w.Pages:
		fail("pages %d times spread %d is more memory than any guest has", w.Pages, w.Spread)
	case w.End() > memory || w.Free > (memory-w.End())/PageSize:
		fail("the workload ends at %d MiB and needs %d free pages above, the guest has %d MiB: use fewer pages or more memory",
			(w.End()+1<<20-1)>>20, w.Free, memory>>20)
	}
	if w.Pages >= 1 && gcd(w.Step, w.Pages) != 1 {
		fail("step %d and pages %d have a common factor: a pass would not meet every page", w.Step, w.Pages)
	}
	if w.Words < 2 || w.Words > MaxWords || w.Words&(w.Words-1) != 0 {
		fail("words must be a power of two from 2 to %d, not %d", MaxWords, w.Words)
	}
	if w.Classes < 1 || w.Classes > MaxClasses || w.Classes&(w.Classes-1) != 0 {
		fail("classes must be a power of two from 1 to %d, not %d", MaxClasses, w.Classes)
	}
	return errors.Join(errs...)
}

// Word returns what word j of page p holds under seed.
func Word(seed, p, j uint64) uint64 { return Mix(seed + p*PageFactor + j*WordFactor) }

// The factors of the formula, which the freestanding program needs as constants;
// odd, so that they lose nothing modulo 2^64.
const (
	MixFactor  = 0x9e3779b97f4a7c15
	PageFactor = 0xd1342543de82ef95
	WordFactor = 0xaf251af3b0f025b5
)

// Mix is the formula's bijection of 64-bit words.
func Mix(x uint64) uint64 {
	x ^= x >> 31
	x *= MixFactor
	return x ^ x>>29
}

// NextSeed returns the seed that follows prev. Clock is the guest's cycle
// counter, so that forks of one capture draw different seeds; id is the first
// word of the identity page.
func NextSeed(prev, clock, id uint64) uint64 { return Mix(Mix(prev+clock) + id) }

const bootPrefix = "faultline."

// BootArgs returns the workload as kernel boot arguments.
func (w Workload) BootArgs() string {
	auto := uint64(0)
	if w.Auto {
		auto = 1
	}
	var b strings.Builder
	for i, f := range w.fields(&auto) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s%s=%d", bootPrefix, f.name, *f.value)
	}
	return b.String()
}

type field struct {
	name  string
	value *uint64
}

func (w *Workload) fields(auto *uint64) []field {
	return []field{
		{"pages", &w.Pages}, {"spread", &w.Spread}, {"step", &w.Step}, {"words", &w.Words},
		{"classes", &w.Classes}, {"rate", &w.Rate}, {"seed", &w.Seed}, {"free", &w.Free}, {"auto", auto},
	}
}

// ParseBootArgs finds the workload among kernel boot arguments; what is not
// named keeps the value of [Default] for 256 pages. Arguments of others are
// ignored; an unknown or malformed argument of ours is an error.
func ParseBootArgs(args string) (Workload, error) {
	w := Default(256)
	var auto uint64
	for _, arg := range strings.Fields(args) {
		name, ours := strings.CutPrefix(arg, bootPrefix)
		if !ours {
			continue
		}
		name, text, _ := strings.Cut(name, "=")
		value, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			return Workload{}, fmt.Errorf("boot argument %q: %q is not a number", arg, text)
		}
		found := false
		for _, f := range w.fields(&auto) {
			if f.name == name {
				*f.value, found = value, true
			}
		}
		if !found {
			return Workload{}, fmt.Errorf("boot argument %q: no such workload setting", arg)
		}
	}
	w.Auto = auto != 0
	return w, nil
}
