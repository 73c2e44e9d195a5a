package bench

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/pager/control"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []int64
		want   float64
	}{{nil, 0}, {[]int64{7}, 7}, {[]int64{9, 1, 5}, 5}, {[]int64{4, 1, 2, 9}, 3}} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

// TestQuantile compares with the definition: at least that share of the values is
// as small, and no smaller value has that property.
func TestQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(-50, 50), 1, 40).Draw(t, "values")
		share := float64(rapid.IntRange(0, 100).Draw(t, "percent")) / 100
		before := slices.Clone(values)
		got := quantile(values, share)
		if !slices.Equal(values, before) {
			t.Fatal("the values were reordered")
		}
		upTo := func(limit int64) (n int) {
			for _, v := range values {
				if v <= limit {
					n++
				}
			}
			return n
		}
		need := share * float64(len(values))
		if !slices.Contains(values, got) || float64(upTo(got)) < need {
			t.Fatalf("%d of %v is not the quantile %v", got, values, share)
		}
		if below := upTo(got - 1); below > 0 && float64(below) >= need {
			t.Fatalf("%d of %v is not the smallest for %v", got, values, share)
		}
	})
	if got := quantile([]float64(nil), 0.5); got != 0 {
		t.Errorf("a quantile of nothing is %v", got)
	}
}

func TestRatios(t *testing.T) {
	turns := func(ns ...time.Duration) [][]time.Duration {
		return [][]time.Duration{{ns[0], ns[0], 1000}, {1, ns[1], ns[1]}}
	}
	ours, c := entrant{turns: turns(12, 33)}, entrant{turns: turns(10, 30)}
	if got := ours.ratios(&c); !slices.Equal(got, []float64{1.2, 1.1}) {
		t.Errorf("ratios %v", got)
	}
	if got := ours.all(); !slices.Equal(got, []int64{12, 12, 1000, 1, 33, 33}) {
		t.Errorf("all faults: %v", got)
	}
}

func TestMemoryWatch(t *testing.T) {
	var w memoryWatch
	for _, look := range [][2]uint64{{30, 20}, {90, 85}, {50, 30}, {100, 95}, {25, 30}} {
		w.add(control.PagerStats{
			Process: control.ProcessStats{ResidentBytes: look[0]}, Cache: control.CacheStats{UsedBytes: look[1]},
		})
	}
	if w != (memoryWatch{looks: 5, resident: 50, cached: 30}) || w.most() != 20 {
		t.Errorf("%+v", w)
	}
}
