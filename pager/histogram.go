package pager

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/pager/control"
)

// histogram counts durations in buckets whose width is a sixteenth of their
// power of two, from 1 ns to about 18 minutes. Adding is one atomic increment and
// never allocates; readers see a snapshot that may be torn by a few counts.
type histogram struct {
	buckets [subBuckets * 37]atomic.Uint64
	max     atomic.Int64
}

const (
	subBits    = 4
	subBuckets = 1 << subBits
)

func bucketOf(d time.Duration) int {
	n := uint64(max(d, 1))
	exp := bits.Len64(n) - 1
	if exp < subBits {
		return int(n)
	}
	i := (exp-subBits+1)<<subBits + int(n>>(exp-subBits))&(subBuckets-1)
	return min(i, subBuckets*37-1)
}

// bucketLimit returns the largest duration that falls into bucket i.
func bucketLimit(i int) time.Duration {
	if i < subBuckets {
		return time.Duration(i)
	}
	shift := i>>subBits - 1
	return time.Duration((uint64(i&(subBuckets-1)+subBuckets)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// merge adds the counts of other.
func (h *histogram) merge(other *histogram) {
	for i := range h.buckets {
		if n := other.buckets[i].Load(); n > 0 {
			h.buckets[i].Add(n)
		}
	}
	if m := other.max.Load(); m > h.max.Load() {
		h.max.Store(m)
	}
}

// latency summarises the histogram.
func (h *histogram) latency() control.Latency {
	var counts [len(h.buckets)]uint64
	var total uint64
	for i := range counts {
		counts[i] = h.buckets[i].Load()
		total += counts[i]
	}
	largest := time.Duration(h.max.Load())
	quantile := func(q float64) float64 {
		need, seen := uint64(q*float64(total)), uint64(0)
		for i, n := range counts {
			if seen += n; n > 0 && seen > need {
				return microseconds(min(bucketLimit(i), largest))
			}
		}
		return microseconds(largest)
	}
	return control.Latency{Count: total, P50: quantile(.50), P95: quantile(.95), P99: quantile(.99), Max: microseconds(largest)}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
