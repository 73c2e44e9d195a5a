package memimage

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// genRuns draws runs from page 0 on, neighbours possibly of one state.
func genRuns(t *rapid.T, states ...State) []Run {
	var runs []Run
	next := uint64(0)
	for range rapid.IntRange(1, 40).Draw(t, "runs") {
		r := Run{Page: next, Pages: rapid.Uint64Range(1, 70).Draw(t, "pages"), State: rapid.SampledFrom(states).Draw(t, "state")}
		if rapid.IntRange(0, 30).Draw(t, "far") == 0 {
			r.Pages += 1 << rapid.IntRange(10, 24).Draw(t, "bits")
		}
		runs = append(runs, r)
		next += r.Pages
	}
	return runs
}

func TestIndexRoundTripAndLookup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := genRuns(t, Absent, Zero, Data)
		ix, err := NewIndex(testID(7), runs...)
		if err != nil {
			t.Fatal(err)
		}
		var counts Counts
		for _, r := range runs {
			counts.add(r.State, r.Pages)
			for _, p := range []uint64{r.Page, r.Page + r.Pages/2, r.Page + r.Pages - 1} {
				if got := ix.Lookup(p); got != r.State {
					t.Fatalf("page %d is %v, want %v", p, got, r.State)
				}
			}
		}
		if diff := cmp.Diff(counts, ix.Counts()); diff != "" {
			t.Fatalf("counts (-want +got):\n%s", diff)
		}
		if got := ix.Lookup(ix.Pages()); got != Absent {
			t.Fatalf("page past the end is %v", got)
		}
		got, err := DecodeIndex(ix.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ix, got, cmp.AllowUnexported(Index{})); diff != "" {
			t.Fatalf("decoded index (-want +got):\n%s", diff)
		}
		if err := canonical(got); err != "" {
			t.Fatal(err)
		}
	})
}

// canonical says what breaks the form of an index, or nothing.
func canonical(ix *Index) string {
	next, last := uint64(0), State(stateMask)
	for r := range ix.Runs() {
		if r.Page != next || r.Pages == 0 || r.State > Data {
			return "run out of place"
		}
		if r.State == last {
			return "neighbouring runs of one state"
		}
		next, last = r.Page+r.Pages, r.State
	}
	if next != ix.Pages() {
		return "runs do not cover the pages"
	}
	return ""
}

func TestNewIndexRefusesBadRuns(t *testing.T) {
	for name, runs := range map[string][]Run{
		"none":       nil,
		"gap":        {{0, 1, Data}, {2, 1, Zero}},
		"overlap":    {{0, 2, Data}, {1, 1, Zero}},
		"late start": {{1, 1, Data}},
		"empty run":  {{0, 0, Data}},
		"bad state":  {{0, 1, 3}},
		"too many":   {{0, MaxPages, Data}, {MaxPages, 1, Zero}},
		"overflow":   {{0, 1 << 63, Data}},
	} {
		if _, err := NewIndex(testID(1), runs...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewIndex("no id", Run{0, 1, Data}); err == nil {
		t.Error("bad id: no error")
	}
}

// rawIndex encodes an index file by hand, with a right checksum.
func rawIndex(pages, count uint64, runs ...byte) []byte {
	out := append([]byte(indexMagic), make([]byte, indexHeader-8)...)
	binary.LittleEndian.PutUint32(out[8:], indexVersion)
	binary.LittleEndian.PutUint32(out[12:], PageSize)
	binary.LittleEndian.PutUint64(out[32:], pages)
	binary.LittleEndian.PutUint64(out[40:], count)
	out = append(out, runs...)
	return reseal(append(out, 0, 0, 0, 0))
}

// reseal puts the right checksum at the end of data.
func reseal(data []byte) []byte {
	body := data[:len(data)-4]
	return binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

func TestDecodeIndexRefuses(t *testing.T) {
	good := rawIndex(3, 2, 2<<2|2, 1<<2|0)
	if _, err := DecodeIndex(good); err != nil {
		t.Fatalf("the good index: %v", err)
	}
	patch := func(at int, b byte) []byte {
		out := slices.Clone(good)
		out[at] = b
		return reseal(out)
	}
	flipped := slices.Clone(good)
	flipped[20] ^= 1
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":            {nil, "shorter"},
		"header only":      {good[:indexHeader], "shorter"},
		"magic":            {patch(0, 'X'), "not a page index"},
		"version":          {patch(8, 2), "version 2"},
		"page size":        {patch(13, 1), "page size"},
		"flipped bit":      {flipped, "checksum"},
		"no pages":         {rawIndex(0, 0), "0 pages"},
		"too many pages":   {rawIndex(MaxPages+1, 1, 4), "pages"},
		"count too large":  {rawIndex(3, 1<<40, 2<<2|2, 1<<2), "runs in 2 bytes"},
		"count too small":  {rawIndex(3, 1, 3<<2|2, 1<<2), "behind its last run"},
		"run missing":      {rawIndex(3, 1, 2<<2|2), "covers 2 of 3"},
		"same state twice": {rawIndex(3, 2, 2<<2|2, 1<<2|2), "after state"},
		"unknown state":    {rawIndex(3, 1, 3<<2|3), "state"},
		"empty run":        {rawIndex(3, 2, 0<<2|1, 3<<2|2), "of 0 pages"},
		"run too long":     {rawIndex(3, 1, 4<<2|2), "of 4 pages"},
		"long varint":      {rawIndex(3, 1, 3<<2|2|0x80, 0), "minimal"},
		"cut varint":       {rawIndex(3, 1, 3<<2|2|0x80), "minimal"},
		"trailing byte":    {rawIndex(3, 1, 3<<2|2, 0), "behind"},
	} {
		_, err := DecodeIndex(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add([]byte{})
	f.Add(rawIndex(3, 2, 2<<2|2, 1<<2|0))
	f.Add(rawIndex(MaxPages, 1, 0x82, 0x80, 0x80, 0x80, 0x40))
	f.Add(rawIndex(1<<20, 1<<60, 4))
	ix, err := NewIndex(testID(3), Run{0, 1000, Zero}, Run{1000, 1, Data}, Run{1001, 1 << 30, Absent})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ix.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		// Mutations hardly ever keep the checksum right: try both.
		for range 2 {
			if ix, err := DecodeIndex(data); err == nil {
				if cap(ix.runs) > len(data) {
					t.Fatalf("%d bytes made room for %d runs", len(data), cap(ix.runs))
				}
				if fault := canonical(ix); fault != "" {
					t.Fatal(fault)
				}
				if !slices.Equal(ix.Encode(), data) {
					t.Fatal("an index has two encodings")
				}
			}
			if len(data) < 4 {
				return
			}
			data = reseal(slices.Clone(data))
		}
	})
}
