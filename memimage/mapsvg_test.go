package memimage

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestMapShowsEachLayer(t *testing.T) {
	pages := 1 << 16
	base, dir := t.TempDir(), t.TempDir()
	writes := make(map[int][]byte)
	for p := 1000; p < 9000; p++ {
		writes[p] = page(1)
	}
	m := mustSeal(t, base, Manifest{}, pages, writes).Manifest
	linkLayers(t, base, dir, m)
	m = mustSeal(t, dir, m, pages, map[int][]byte{40000: page(2)}).Manifest
	img := mustOpen(t, dir)
	defer mustClose(t, img)
	var out bytes.Buffer
	check(t, MapSVG(&out, img))
	dec := xml.NewDecoder(bytes.NewReader(out.Bytes()))
	for {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range m.Layers {
		if !strings.Contains(out.String(), string(l.ID[:8])) {
			t.Errorf("layer %d is not in the legend", i)
		}
		// Once in the legend, and in the grid.
		if n := strings.Count(out.String(), newPageMap(img).color(i+1)); n < 2 {
			t.Errorf("the color of layer %d is there %d times", i, n)
		}
	}
}

func TestMapOfOnePageAndOfMany(t *testing.T) {
	for _, stack := range [][]*Index{alternating(2), scatteredStack(t, pages8G, 16)} {
		img := memoryImage(stack)
		m := newPageMap(img)
		if m.rows() > mapMaxRows || uint64(len(m.cells))*m.pagesPerCell < img.Pages() {
			t.Errorf("%d pages in %d rows of cells of %d pages", img.Pages(), m.rows(), m.pagesPerCell)
		}
	}
}

func TestDominantPrefersDataAndTheNewest(t *testing.T) {
	for _, c := range []struct {
		counts []uint64
		want   int
	}{
		{[]uint64{9, 0, 0}, 0}, {[]uint64{9, 1, 0}, 1}, {[]uint64{0, 5, 4}, 1}, {[]uint64{0, 4, 4}, 2}, {[]uint64{8, 0, 1}, 2},
	} {
		if got := dominant(c.counts); got != c.want {
			t.Errorf("%v: source %d, want %d", c.counts, got, c.want)
		}
	}
}
