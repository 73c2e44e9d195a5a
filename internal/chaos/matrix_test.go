package chaos

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/pager"
)

func TestCells(t *testing.T) {
	cells, want := Cells(), 1
	for _, values := range dimensions() {
		want *= len(values)
	}
	seen := map[string]bool{}
	for _, c := range cells {
		seen[c.Name()] = true
		for i, v := range c.values() {
			if !slices.Contains(dimensions()[i], v) {
				t.Fatalf("%s: %q is no value of dimension %d", c.Name(), v, i)
			}
		}
	}
	if len(cells) != want || len(seen) != want {
		t.Errorf("%d cells of %d names, want %d", len(cells), len(seen), want)
	}
	// Each failpoint can be met in some cell of each VMM.
	for _, vmm := range []string{simulator, realVMM} {
		for _, point := range pager.Failpoints() {
			if !slices.ContainsFunc(cells, func(c Cell) bool { return c.point() == point && c.VMM == vmm && c.impossible() == "" }) {
				t.Errorf("no cell of %s meets %s", vmm, point)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	for pattern, want := range map[string]int{
		"":                                  len(Cells()),
		"kill":                              64,
		"kill/4k/*/4cpu":                    16,
		"kill/4k/off/1cpu/1-fork/fcsim":     1,
		"crash:remove-*/4k/inflating":       32,
		"*/2m/off/4cpu/detach/firecracker":  len(events()),
		"{kill}":                            0,
		"kill/4k/off/1cpu/1-fork/fcsim/one": 0,
		"[":                                 0,
	} {
		cells, err := match(pattern, Cells())
		if len(cells) != want || (err == nil) != (want > 0) {
			t.Errorf("%q matches %d cells (%v), want %d", pattern, len(cells), err, want)
		}
	}
}

// Whatever the seed, the sample has every value on the simulator, and it is small.
func TestShortHasEveryValue(t *testing.T) {
	for seed := range uint64(20) {
		taken := short(Cells(), rand.New(rand.NewPCG(seed, 0)))
		seen := map[string]bool{}
		real := 0
		for _, c := range taken {
			if c.impossible() != "" {
				t.Errorf("seed %d: %s is impossible: %s", seed, c.Name(), c.impossible())
			}
			if c.VMM == realVMM {
				real++
				continue
			}
			for _, v := range c.values() {
				seen[v] = true
			}
		}
		for _, values := range dimensions() {
			for _, v := range values {
				if !seen[v] && v != realVMM {
					t.Errorf("seed %d: no cell of the simulator has %s", seed, v)
				}
			}
		}
		if real != shortReal || len(taken) > len(events())+10 {
			t.Errorf("seed %d: %d cells, %d of them on Firecracker", seed, len(taken), real)
		}
	}
}

func TestDescribeDimensions(t *testing.T) {
	if text := describeDimensions(); !strings.Contains(text, "kill|stop-kill|") || strings.Count(text, " / ") != 5 {
		t.Errorf("dimensions read %q", text)
	}
}
