package memimage

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
)

// The file of checksums, all integers little endian:
//
//	 0  magic "FLPGSUM\n"
//	 8  version, 32 bits
//	12  page size, 32 bits
//	16  layer id, 16 bytes
//	32  number of data pages, 64 bits
//	40  digest of the layer's content, SHA-256
//	72  CRC-32C of everything before, 32 bits
//	76  CRC-32C of each data page in page order, 32 bits each
//	 …  CRC-32C of the page checksums, 32 bits
//
// A checksum is for one page and not for more, so that damage has an address and a
// reader of single pages can check what it read. That makes the file 1/1024 of the
// layer's data. CRC-32C finds every flipped bit and every burst of up to 32.
const (
	sumsMagic   = "FLPGSUM\n"
	sumsVersion = 1
	sumsHeader  = 76
	sumBytes    = crc32.Size
)

// Digest names the content of a layer whatever its id and wherever its holes:
// "sha256:" and 64 hexadecimal digits. It is taken over the runs of the page index
// in order: each the 64-bit little endian number pages << 2 | state (0 absent, 1
// zero, 2 data), behind a data run its pages.
type Digest string

// Sums are the checksums of one layer. They are immutable.
type Sums struct {
	layer  LayerID
	digest [32]byte
	// pages holds the checksums as they are in the file.
	pages []byte
}

// Layer returns the id of the layer whose checksums these are.
func (s *Sums) Layer() LayerID { return s.layer }

// Digest returns the digest of the layer's content.
func (s *Sums) Digest() Digest { return Digest("sha256:" + hex.EncodeToString(s.digest[:])) }

// DataPages returns the number of data pages, each of which has a checksum.
func (s *Sums) DataPages() uint64 { return uint64(len(s.pages) / sumBytes) }

// Sum returns the CRC-32C of data page n of the layer, counted from 0 and without
// the pages that are zero or absent. N must be below DataPages.
func (s *Sums) Sum(n uint64) uint32 { return binary.LittleEndian.Uint32(s.pages[n*sumBytes:]) }

// Encode returns the content of the file.
func (s *Sums) Encode() []byte {
	out := make([]byte, sumsHeader-sumBytes, sumsHeader+len(s.pages)+sumBytes)
	copy(out, sumsMagic)
	binary.LittleEndian.PutUint32(out[8:], sumsVersion)
	binary.LittleEndian.PutUint32(out[12:], PageSize)
	// Only checked ids get here.
	_, _ = hex.Decode(out[16:32], []byte(s.layer))
	binary.LittleEndian.PutUint64(out[32:], s.DataPages())
	copy(out[40:], s.digest[:])
	out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli()))
	out = append(out, s.pages...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(s.pages, castagnoli()))
}

// DecodeSums reads the content of a file of checksums. The result refers to data;
// nothing else is allocated, whatever data says. The error tells what is wrong; the
// caller knows the file's name.
func DecodeSums(data []byte) (*Sums, error) {
	if len(data) < sumsHeader+sumBytes {
		return nil, fmt.Errorf("file of checksums of %d bytes is shorter than its header", len(data))
	}
	if !bytes.Equal(data[:8], []byte(sumsMagic)) {
		return nil, fmt.Errorf("not a file of checksums: it begins with %q", data[:8])
	}
	// The version comes before the checksum: a later one may have another.
	if v := binary.LittleEndian.Uint32(data[8:]); v != sumsVersion {
		return nil, fmt.Errorf("file of checksums has version %d, this program reads version %d", v, sumsVersion)
	}
	head, sum := data[:sumsHeader-sumBytes], binary.LittleEndian.Uint32(data[sumsHeader-sumBytes:])
	if got := crc32.Checksum(head, castagnoli()); got != sum {
		return nil, fmt.Errorf("header of checksums has checksum %08x, its content %08x", sum, got)
	}
	if size := binary.LittleEndian.Uint32(data[12:]); size != PageSize {
		return nil, fmt.Errorf("checksums are of pages of %d bytes, want %d", size, PageSize)
	}
	body := data[sumsHeader : len(data)-sumBytes]
	if n := binary.LittleEndian.Uint64(data[32:]); n > MaxPages || n*sumBytes != uint64(len(body)) {
		return nil, fmt.Errorf("checksums of %d pages in %d bytes", n, len(body))
	}
	sum = binary.LittleEndian.Uint32(data[len(data)-sumBytes:])
	if got := crc32.Checksum(body, castagnoli()); got != sum {
		return nil, fmt.Errorf("page checksums have checksum %08x, their content %08x", sum, got)
	}
	s := &Sums{layer: LayerID(hex.EncodeToString(data[16:32])), pages: body}
	copy(s.digest[:], data[40:])
	return s, nil
}

// readSums reads the checksums of a layer of the image in dir, of which the index
// says how many data pages it has. They are optional: a *FileError of reason [ErrMissing] is no damage.
func readSums(dir string, id LayerID, dataPages uint64) (*Sums, error) {
	path := filepath.Join(dir, filepath.FromSlash(SumsFile(id)))
	data, err := readWhole(path, sumsHeader+dataPages*sumBytes+sumBytes, "compute the checksums")
	if err != nil {
		return nil, err
	}
	s, err := DecodeSums(data)
	if err != nil {
		return nil, &FileError{Path: path, Reason: ErrCorrupt, Remedy: remedySums, Err: err}
	}
	if s.Layer() != id || s.DataPages() != dataPages {
		return nil, &FileError{
			Path: path, Reason: ErrMismatch, Remedy: remedySums,
			Detail: fmt.Sprintf("it is of layer %s with %d data pages, the index of layer %s with %d", s.Layer(), s.DataPages(), id, dataPages),
		}
	}
	return s, nil
}

const remedySums = "restore it from another copy of the image; where there is none, remove it and compute the checksums again"

// recordedDigest reads the digest of a layer of an open image, and returns "" where
// the layer has no checksums.
func recordedDigest(img *Image, l *Layer) (Digest, error) {
	s, err := readSums(filepath.Dir(img.path), l.ID(), l.counts.Data)
	if errors.Is(err, ErrMissing) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return s.Digest(), nil
}
