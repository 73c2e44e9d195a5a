package memimage

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

// The index file, all integers little endian:
//
//	 0  magic "FLPGIDX\n"
//	 8  version, 32 bits
//	12  page size, 32 bits
//	16  layer id, 16 bytes
//	32  number of pages, 64 bits
//	40  number of runs, 64 bits
//	48  runs in page order, each an unsigned varint: pages << 2 | state
//	 …  CRC-32C of everything before, 32 bits
//
// There is one encoding of an index: varints are of minimal length, neighbouring
// runs differ in state, runs sum up to the number of pages, nothing follows the
// checksum. An index is therefore equal exactly if its file is.
const (
	indexMagic   = "FLPGIDX\n"
	indexVersion = 1
	indexHeader  = 48
	indexTrailer = crc32.Size
	// maxRunBytes is the longest varint of a run: 35 bits.
	maxRunBytes = 5
)

// maxIndexBytes bounds the size of an index file of so many pages.
func maxIndexBytes(pages uint64) uint64 { return indexHeader + pages*maxRunBytes + indexTrailer }

// castagnoli returns the table of CRC-32C; the standard library makes it once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Encode returns the content of the index file.
func (ix *Index) Encode() []byte {
	out := make([]byte, indexHeader, indexHeader+3*len(ix.runs)+indexTrailer)
	copy(out, indexMagic)
	binary.LittleEndian.PutUint32(out[8:], indexVersion)
	binary.LittleEndian.PutUint32(out[12:], PageSize)
	// An index only ever holds a checked id.
	_, _ = hex.Decode(out[16:32], []byte(ix.layer))
	binary.LittleEndian.PutUint64(out[32:], ix.pages)
	binary.LittleEndian.PutUint64(out[40:], uint64(len(ix.runs)))
	for i := range ix.runs {
		r := ix.run(i)
		out = binary.AppendUvarint(out, r.Pages<<stateBits|uint64(r.State))
	}
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli()))
}

// DecodeIndex reads the content of an index file. It allocates at most eight
// bytes per byte of data, whatever data says. The error tells what is wrong; the
// caller knows the file's name.
func DecodeIndex(data []byte) (*Index, error) {
	if len(data) < indexHeader+indexTrailer {
		return nil, fmt.Errorf("page index of %d bytes is shorter than its header", len(data))
	}
	if !bytes.Equal(data[:8], []byte(indexMagic)) {
		return nil, fmt.Errorf("not a page index: it begins with %q", data[:8])
	}
	// The version comes before the checksum: a later one may have another.
	if v := binary.LittleEndian.Uint32(data[8:]); v != indexVersion {
		return nil, fmt.Errorf("page index has version %d, this program reads version %d", v, indexVersion)
	}
	body, sum := data[:len(data)-indexTrailer], binary.LittleEndian.Uint32(data[len(data)-indexTrailer:])
	if got := crc32.Checksum(body, castagnoli()); got != sum {
		return nil, fmt.Errorf("page index has checksum %08x, its content %08x", sum, got)
	}
	if size := binary.LittleEndian.Uint32(data[12:]); size != PageSize {
		return nil, fmt.Errorf("page index has page size %d, want %d", size, PageSize)
	}
	pages := binary.LittleEndian.Uint64(data[32:])
	if pages == 0 || pages > MaxPages {
		return nil, fmt.Errorf("page index of %d pages, want 1 to %d", pages, uint64(MaxPages))
	}
	ix := &Index{layer: LayerID(hex.EncodeToString(data[16:32])), pages: pages}
	count := binary.LittleEndian.Uint64(data[40:])
	if err := ix.decodeRuns(body[indexHeader:], count); err != nil {
		return nil, err
	}
	return ix, nil
}

// decodeRuns reads count runs, which must fill data and cover all pages.
func (ix *Index) decodeRuns(data []byte, count uint64) error {
	if count > uint64(len(data)) {
		return fmt.Errorf("page index of %d runs in %d bytes", count, len(data))
	}
	ix.runs = make([]uint64, 0, count)
	var page uint64
	last := State(stateMask)
	for range count {
		v, n := binary.Uvarint(data)
		// A last byte of zero would be a longer spelling of the same number.
		if n <= 0 || n > 1 && data[n-1] == 0 {
			return fmt.Errorf("page index run %d is not a minimal varint", len(ix.runs))
		}
		data = data[n:]
		length, state := v>>stateBits, State(v&stateMask)
		if state > Data || state == last {
			return fmt.Errorf("page index run %d in state %d after state %d", len(ix.runs), state, last)
		}
		if length == 0 || length > ix.pages-page {
			return fmt.Errorf("page index run %d of %d pages at page %d of %d", len(ix.runs), length, page, ix.pages)
		}
		ix.runs = append(ix.runs, page<<stateBits|uint64(state))
		ix.counts.add(state, length)
		page += length
		last = state
	}
	if page != ix.pages {
		return fmt.Errorf("page index covers %d of %d pages", page, ix.pages)
	}
	if len(data) != 0 {
		return fmt.Errorf("page index has %d bytes behind its last run", len(data))
	}
	return nil
}
