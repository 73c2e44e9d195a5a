package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func drawPage(t *rapid.T) (w Workload, seed, p uint64) {
	w = Workload{Words: 1 << rapid.IntRange(1, 9).Draw(t, "log words")}
	return w, rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "page")
}

func TestFillPageWritesTheWordsAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, seed, p := drawPage(t)
		want := bytes.Repeat([]byte{0xa5}, PageSize)
		got := bytes.Clone(want)
		for j := range w.Words {
			binary.LittleEndian.PutUint64(want[w.WordOffset(j):], Word(seed, p, j))
		}
		if FillPage(got, w, seed, p); !bytes.Equal(got, want) {
			t.Fatal("another page than Word and WordOffset say")
		}
		if !CheckPage(got, w, seed, p) {
			t.Fatal("a filled page is wrong")
		}
	})
}

func TestCheckPageSeesEveryByteOfItsWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, seed, p := drawPage(t)
		page := make([]byte, PageSize)
		FillPage(page, w, seed, p)
		j := rapid.Uint64Range(0, w.Words-1).Draw(t, "word")
		at := w.WordOffset(j) + rapid.Uint64Range(0, 7).Draw(t, "byte")
		page[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if CheckPage(page, w, seed, p) {
			t.Fatalf("byte %d is wrong and nobody noticed", at)
		}
	})
}

func TestCheckPageTellsPagesApart(t *testing.T) {
	w, page := Workload{Words: 2}, make([]byte, PageSize)
	FillPage(page, w, 7, 100)
	for _, other := range []struct{ seed, p uint64 }{{8, 100}, {6, 100}, {7, 101}, {7, 99}, {0, 0}} {
		if CheckPage(page, w, other.seed, other.p) {
			t.Errorf("taken for page %d under seed %d", other.p, other.seed)
		}
	}
	if CheckPage(make([]byte, PageSize), w, 7, 100) {
		t.Error("a page of zeros passes")
	}
}

func TestPagesDoNotAllocate(t *testing.T) {
	w, page := Default(1), make([]byte, PageSize)
	if n := testing.AllocsPerRun(100, func() { FillPage(page, w, 1, 2); CheckPage(page, w, 1, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheckPage(b *testing.B) {
	for _, words := range []uint64{8, MaxWords} {
		b.Run(fmt.Sprintf("words=%d", words), func(b *testing.B) {
			w, page := Workload{Words: words}, make([]byte, PageSize)
			FillPage(page, w, 1, 2)
			for b.Loop() {
				if !CheckPage(page, w, 1, 2) {
					b.Fatal("wrong")
				}
			}
		})
	}
}
