package memimage

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// testSums returns checksums of so many pages.
func testSums(pages int) *Sums {
	s := &Sums{layer: testID(5)}
	for i := range s.digest {
		s.digest[i] = byte(i)
	}
	for p := range pages {
		s.pages = binary.LittleEndian.AppendUint32(s.pages, uint32(p*p))
	}
	return s
}

func TestSumsRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		want := testSums(n)
		got, err := DecodeSums(want.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got.Layer() != want.Layer() || got.Digest() != want.Digest() || got.DataPages() != uint64(n) {
			t.Errorf("%d pages: decoded %s %s %d", n, got.Layer(), got.Digest(), got.DataPages())
		}
		for p := range got.DataPages() {
			if got.Sum(p) != uint32(p*p) {
				t.Fatalf("sum %d is %d", p, got.Sum(p))
			}
		}
	}
}

// resealSums puts the right checksums on header and body.
func resealSums(data []byte) []byte {
	binary.LittleEndian.PutUint32(data[sumsHeader-4:], crc32.Checksum(data[:sumsHeader-4], castagnoli()))
	end := len(data) - 4
	binary.LittleEndian.PutUint32(data[end:], crc32.Checksum(data[sumsHeader:end], castagnoli()))
	return data
}

func TestDecodeSumsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":         {func([]byte) []byte { return nil }, "shorter"},
		"short":         {func(d []byte) []byte { return d[:sumsHeader+3] }, "shorter"},
		"magic":         {func(d []byte) []byte { d[0]++; return d }, "not a file"},
		"version":       {func(d []byte) []byte { d[8]++; return d }, "version 2"},
		"header":        {func(d []byte) []byte { d[45]++; return d }, "header"},
		"page size":     {func(d []byte) []byte { d[13]++; return resealSums(d) }, "pages of"},
		"count":         {func(d []byte) []byte { d[32]++; return resealSums(d) }, "checksums of 4 pages"},
		"count too far": {func(d []byte) []byte { d[39] = 0x40; return resealSums(d) }, "checksums of"},
		"trailing":      {func(d []byte) []byte { return resealSums(append(d, 0)) }, "checksums of 3 pages"},
		"page":          {func(d []byte) []byte { d[sumsHeader+1]++; return d }, "page checksums"},
	} {
		_, err := DecodeSums(c.change(testSums(3).Encode()))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func FuzzDecodeSums(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(testSums(0).Encode())
	f.Add(testSums(3).Encode())
	f.Add(resealSums(append(testSums(2).Encode(), 1, 2, 3, 4)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, fixSums(data)} {
			s, err := DecodeSums(data)
			if err != nil {
				continue
			}
			if !bytes.Equal(s.Encode(), data) {
				t.Errorf("decoded checksums encode to other bytes")
			}
		}
	})
}

// fixSums gets random data past the checksums, into the decoder's depths.
func fixSums(data []byte) []byte {
	if len(data) < sumsHeader+4 {
		return data
	}
	return resealSums(bytes.Clone(data))
}
