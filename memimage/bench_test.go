package memimage

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// pages8G is the number of pages of a guest with 8 GiB.
const pages8G = 8 << 30 / PageSize

// scatteredStack makes indexes as a busy guest's captures do: a base of long runs
// and zero stretches, and diffs that dirty one percent each in short runs.
func scatteredStack(t tb, pages uint64, layers int) []*Index {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var stack []*Index
	for i := range layers {
		b := newIndexBuilder(testID(i + 1))
		for b.ix.pages < pages {
			left := pages - b.ix.pages
			if i == 0 {
				b.add(Data, min(left, 1+rng.Uint64N(400)))
				b.add(Zero, min(pages-b.ix.pages, rng.Uint64N(200)))
				continue
			}
			b.add(Absent, min(left, 1+rng.Uint64N(400)))
			b.add(Data, min(pages-b.ix.pages, 1+rng.Uint64N(3)))
		}
		stack = append(stack, b.finish())
	}
	return stack
}

func BenchmarkResolve(b *testing.B) {
	for name, stack := range map[string][]*Index{
		"flat":     scatteredStack(b, pages8G, 1),
		"16layers": scatteredStack(b, pages8G, 16),
		"worst":    alternating(pages8G),
	} {
		img := memoryImage(stack)
		order := make([]uint32, 1<<16)
		for i := range order {
			order[i] = rand.Uint32N(pages8G)
		}
		b.Run(name+"/random", func(b *testing.B) {
			b.ReportAllocs()
			sum := int64(0)
			for i := 0; b.Loop(); i++ {
				sum += img.Resolve(uint64(order[i&(1<<16-1)])).Offset
			}
			runtime.KeepAlive(sum)
			b.ReportMetric(float64(len(img.resolved.runs)), "runs")
		})
	}
}

// alternating is the largest index of so many pages: every page differs from the
// one before.
func alternating(pages uint64) []*Index {
	b := newIndexBuilder(testID(1))
	for b.ix.pages < pages {
		b.add(Data, 1)
		b.add(Zero, 1)
	}
	return []*Index{b.finish()}
}

// writeStack puts an image of empty layer files with the given indexes into dir.
func writeStack(t tb, dir string, stack []*Index) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, LayersDir), 0o755); err != nil {
		t.Fatal(err)
	}
	m := Manifest{Version: manifestVersion, Size: stack[0].Pages() * PageSize, PageSize: PageSize}
	for i, ix := range stack {
		kind := Diff
		if i == 0 {
			kind = Full
		}
		entry := newEntry(ix.Layer(), kind, m.Size)
		m.Layers = append(m.Layers, entry)
		mem, idx := layerPaths(dir, entry)
		writeMemory(t, mem, int(ix.Pages()), nil)
		if err := os.WriteFile(idx, ix.Encode(), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(filepath.Join(dir, ManifestName), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkOpen opens an image of an 8 GiB guest in 16 layers. The metric
// resident-MiB is the heap that the open image keeps.
func BenchmarkOpen(b *testing.B) {
	for name, stack := range map[string][]*Index{
		"16layers": scatteredStack(b, pages8G, 16),
		"worst":    alternating(pages8G),
	} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			writeStack(b, dir, stack)
			b.ReportAllocs()
			before := heapMiB()
			img := mustOpen(b, dir)
			resident := heapMiB() - before
			mustClose(b, img)
			for b.Loop() {
				mustClose(b, mustOpen(b, dir))
			}
			b.ReportMetric(resident, "resident-MiB")
			runtime.KeepAlive(img)
		})
	}
}

// BenchmarkScan reads 256 MiB from the page cache, half of them zero pages.
func BenchmarkScan(b *testing.B) {
	const pages = 256 << 20 / PageSize
	path := filepath.Join(b.TempDir(), "raw")
	content := make(map[int][]byte)
	for p := range pages {
		content[p] = page(byte(p & 1))
	}
	writeMemory(b, path, pages, content)
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(pages * PageSize)
	for b.Loop() {
		if _, err := scan(b.Context(), f, pages*PageSize, testID(1), Full); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSumsAndVerify computes and compares the checksums of 256 MiB of data.
func BenchmarkSumsAndVerify(b *testing.B) {
	const pages = 256 << 20 / PageSize
	dir := b.TempDir()
	content := make(map[int][]byte)
	for p := range pages {
		content[p] = page(byte(p | 1))
	}
	m := mustSeal(b, dir, Manifest{}, pages, content).Manifest
	sums := filepath.Join(dir, SumsFile(m.Layers[0].ID))
	b.Run("sums", func(b *testing.B) {
		b.SetBytes(pages * PageSize)
		for b.Loop() {
			if err := removeIfThere(sums); err != nil {
				b.Fatal(err)
			}
			if _, err := WriteSums(b.Context(), filepath.Join(dir, ManifestName), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(pages * PageSize)
		for b.Loop() {
			if err := mustVerify(b, dir).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// heapMiB returns the live heap.
func heapMiB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
