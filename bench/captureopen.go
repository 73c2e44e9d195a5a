package bench

import (
	"runtime"
	"time"

	"github.com/faultline-vm/faultline/memimage"
)

// captureOpen measures the opening of a deep image.
func (r *run) captureOpen() ([]Case, error) {
	duration := limited("open_16_layers_ms", "ms", 50)
	memory := limited("open_16_layers_mib", "MiB", 32)
	skip := func(err error) ([]Case, error) { return []Case{duration.skip(err), memory.skip(err)}, err }
	manifest, err := r.stackImage("stack")
	if err != nil {
		return skip(err)
	}
	var times, sizes []int64
	for range r.openRounds {
		before := heapInUse()
		began := time.Now()
		img, err := memimage.Open(manifest)
		if err != nil {
			return skip(err)
		}
		times = append(times, int64(time.Since(began)))
		sizes = append(sizes, heapInUse()-before)
		runtime.KeepAlive(img)
		if err := img.Close(); err != nil {
			return skip(err)
		}
	}
	how := func() []any { return []any{r.stackLayers, r.stackGuest >> 20, r.stackPages, r.openRounds} }
	const about = "%d layers of a guest of %d MiB, %d scattered pages in each; %d times, page cache warm"
	duration = duration.measured(round(median(times)/1e6, 2), "median; "+about, how()...)
	memory = memory.measured(round(mib(quantile(sizes, 1)), 2), "largest of what the open image keeps on the heap; "+about, how()...)
	return []Case{duration, memory}, nil
}

// heapInUse returns the bytes of live heap objects.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
