package bench

import (
	"math"
	"slices"
)

// quantile returns the smallest of the values that is at least as large as that
// share of them, and 0 for none. Share is from 0 to 1.
func quantile[T int64 | float64](values []T, share float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median returns the middle of the values, and the mean of the two that are there
// for an even number.
func median[T int64 | float64](values []T) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (float64(sorted[(n-1)/2]) + float64(sorted[n/2])) / 2
}

// round keeps so many digits behind the point.
func round(value float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(value*scale) / scale
}
