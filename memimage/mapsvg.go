package memimage

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/dustin/go-humanize"
)

// Sizes of the page map, in pixels.
const (
	mapColumns = 128
	mapCell    = 6
	mapLeft    = 90
	mapTop     = 56
	mapLegend  = 22
	mapMargin  = 20
)

// mapMaxRows bounds the height of the map; a larger guest has larger cells.
const mapMaxRows = 96

// MapSVG draws which layer each region of an image's memory comes from: a grid of
// cells in address order, each in the color of the layer that most of its pages
// come from, and a legend with the layers' sizes. The picture is self-contained.
func MapSVG(w io.Writer, img *Image) error {
	info, err := inspect(img)
	if err != nil {
		return fmt.Errorf("draw %s: %w", img.path, err)
	}
	out := bufio.NewWriter(w)
	m := newPageMap(img)
	m.draw(out, info)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("draw %s: %w", img.path, err)
	}
	return nil
}

// pageMap is an image reduced to cells. A cell's source is a layer's place in the
// stack plus 1, or 0 for zero pages.
type pageMap struct {
	layers       int
	pagesPerCell uint64
	cells        []int
}

func newPageMap(img *Image) *pageMap {
	m := &pageMap{layers: len(img.layers), pagesPerCell: 1}
	for img.Pages() > m.pagesPerCell*mapColumns*mapMaxRows {
		m.pagesPerCell *= 2
	}
	place := make(map[*Layer]int, m.layers)
	for i, l := range img.layers {
		place[l] = i + 1
	}
	counts := make([]uint64, m.layers+1)
	for page := uint64(0); page < img.Pages(); page += m.pagesPerCell {
		clear(counts)
		for e := range img.Extents(page, m.pagesPerCell) {
			counts[place[e.Location.Layer]] += e.Pages
		}
		m.cells = append(m.cells, dominant(counts))
	}
	return m
}

// dominant returns the source with the most pages. Data comes before zero pages,
// however few its pages are, so that a lone dirty page is seen.
func dominant(counts []uint64) int {
	best := 0
	for i := 1; i < len(counts); i++ {
		if counts[i] > 0 && (best == 0 || counts[i] >= counts[best]) {
			best = i
		}
	}
	return best
}

func (m *pageMap) rows() int { return (len(m.cells) + mapColumns - 1) / mapColumns }

// color returns the color of a source: the oldest layer is grey, those above it go
// round the circle of hues in steps that keep neighbours apart.
func (m *pageMap) color(source int) string {
	switch source {
	case 0:
		return "#f3f4f6"
	case 1:
		return "#8b95a5"
	}
	hue := math.Mod(float64(source-2)*137.508+210, 360)
	return fmt.Sprintf("hsl(%.0f,68%%,%d%%)", hue, 45+8*(source%2))
}

// draw writes the picture. Errors stay in the buffer's writer.
func (m *pageMap) draw(w *bufio.Writer, info Inspection) {
	grid := m.rows() * mapCell
	width := mapLeft + mapColumns*mapCell + mapMargin
	legend := mapTop + grid + 34
	height := legend + (m.layers+1)*mapLegend + mapMargin
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="ui-monospace,monospace" font-size="12" fill="#1f2937" stroke="none" shape-rendering="crispEdges">`+"\n", width, height)
	fmt.Fprintf(w, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(w, `<text x="%d" y="24" font-size="15" font-weight="bold">Memory of %s in %s</text>`+"\n", mapMargin, size(info.Size), count(len(info.Layers), "layer"))
	fmt.Fprintf(w, `<text x="%d" y="42">one cell is %s; %s on disk; %.0f %% of the data pages superseded</text>`+"\n",
		mapMargin, size(m.pagesPerCell*PageSize), size(info.DiskBytes), 100*info.Superseded)
	m.drawGrid(w)
	for row := 0; row < m.rows(); row += 16 {
		at := uint64(row) * mapColumns * m.pagesPerCell * PageSize
		fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end" font-size="10">%s</text>`+"\n", mapLeft-8, mapTop+row*mapCell+9, size(at))
	}
	// The newest layer is on top, in the legend too.
	y := legend
	for i := len(info.Layers) - 1; i >= 0; i-- {
		l := info.Layers[i]
		m.drawLegend(w, y, i+1, fmt.Sprintf("%s  %-4s  %s of %s used  %s on disk  %s",
			l.ID[:8], l.Kind, size(l.Contributes*PageSize), size(l.Data*PageSize), size(l.DiskBytes), count(int(l.Names), "name")))
		y += mapLegend
	}
	m.drawLegend(w, y, 0, "zero pages: "+size(info.Zero*PageSize))
	fmt.Fprintln(w, "</svg>")
}

// drawGrid draws cells of one source and row as one rectangle.
func (m *pageMap) drawGrid(w *bufio.Writer) {
	for i := 0; i < len(m.cells); {
		row, col := i/mapColumns, i%mapColumns
		n := 1
		for col+n < mapColumns && i+n < len(m.cells) && m.cells[i+n] == m.cells[i] {
			n++
		}
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n",
			mapLeft+col*mapCell, mapTop+row*mapCell, n*mapCell, mapCell, m.color(m.cells[i]))
		i += n
	}
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#9ca3af"/>`+"\n",
		mapLeft, mapTop, mapColumns*mapCell, m.rows()*mapCell)
}

func (m *pageMap) drawLegend(w *bufio.Writer, y, source int, text string) {
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="12" height="12" fill="%s" stroke="#9ca3af"/><text x="%d" y="%d" xml:space="preserve">%s</text>`+"\n",
		mapMargin, y-10, m.color(source), mapMargin+20, y, text)
}

func size(n uint64) string { return humanize.IBytes(n) }

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
