package memimage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Progress is told how many bytes of total are done. It is called often, on the
// goroutine of the work; total does not change. A nil Progress is not called.
type Progress func(done, total uint64)

// meter counts towards a Progress.
type meter struct {
	report      Progress
	done, total uint64
}

func (m *meter) add(n uint64) {
	m.done += n
	if m.report != nil {
		m.report(m.done, m.total)
	}
}

// WriteSums computes the digest and the checksums of those layers of an image that
// have none, and stores them beside the layers. It reads all their data: it is for
// the time after a capture has been published, while its pages are still cached.
// It returns the layers that it wrote checksums of; those before a failure stay.
//
// Checksums say what a layer held when they were made, and so find what happens to
// it later.
func WriteSums(ctx context.Context, manifestPath string, progress Progress) ([]LayerID, error) {
	var written []LayerID
	err := withManifest(manifestPath, func(m Manifest) error {
		missing, total, err := withoutSums(filepath.Dir(manifestPath), m)
		if err != nil {
			return err
		}
		counter := meter{report: progress, total: total}
		for _, entry := range missing {
			if err := writeSums(ctx, filepath.Dir(manifestPath), entry, &counter); err != nil {
				return err
			}
			written = append(written, entry.ID)
		}
		return nil
	})
	if err != nil {
		return written, fmt.Errorf("checksums of %s: %w", manifestPath, err)
	}
	return written, nil
}

// withoutSums returns the layers that have no file of checksums, and the number of
// bytes that have to be read for them.
func withoutSums(dir string, m Manifest) (missing []LayerEntry, total uint64, err error) {
	for _, entry := range m.Layers {
		_, idx := layerPaths(dir, entry)
		ix, err := readIndex(idx, entry)
		if err != nil {
			return nil, 0, err
		}
		_, err = readSums(dir, entry.ID, ix.Counts().Data)
		if errors.Is(err, ErrMissing) {
			missing = append(missing, entry)
			total += ix.Counts().Data * PageSize
		} else if err != nil {
			return nil, 0, err
		}
	}
	return missing, total, nil
}

func writeSums(ctx context.Context, dir string, entry LayerEntry, progress *meter) error {
	layer, ix, err := openLayer(dir, entry)
	if err != nil {
		return err
	}
	// Only read from.
	defer layer.file.Close()
	s := newSummer(ix)
	for r := range ix.Runs() {
		s.run(r)
		if r.State != Data {
			continue
		}
		if err := s.data(ctx, layer.file, r, progress); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, filepath.FromSlash(SumsFile(entry.ID)))
	return atomicfile.WriteFile(path, s.finish().Encode(), 0o444)
}

// summer computes the digest and the checksums of one layer.
type summer struct {
	sums *Sums
	hash hash.Hash
	buf  []byte
}

func newSummer(ix *Index) *summer {
	return &summer{
		sums: &Sums{layer: ix.Layer(), pages: make([]byte, 0, ix.Counts().Data*sumBytes)},
		hash: sha256.New(),
		buf:  make([]byte, scanChunk),
	}
}

// run begins a run of the index.
func (s *summer) run(r Run) {
	var head [8]byte
	binary.LittleEndian.PutUint64(head[:], r.Pages<<stateBits|uint64(r.State))
	s.hash.Write(head[:])
}

// data reads and adds the pages of a data run.
func (s *summer) data(ctx context.Context, f *os.File, r Run, progress *meter) error {
	for off, end := r.Page*PageSize, (r.Page+r.Pages)*PageSize; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := s.buf[:min(end-off, uint64(len(s.buf)))]
		if err := readFull(f, part, int64(off)); err != nil {
			return err
		}
		for p := 0; p < len(part); p += PageSize {
			s.page(part[p : p+PageSize])
		}
		off += uint64(len(part))
		progress.add(uint64(len(part)))
	}
	return nil
}

// page adds a data page and returns its checksum.
func (s *summer) page(data []byte) uint32 {
	s.hash.Write(data)
	sum := crc32.Checksum(data, castagnoli())
	s.sums.pages = binary.LittleEndian.AppendUint32(s.sums.pages, sum)
	return sum
}

func (s *summer) finish() *Sums {
	s.hash.Sum(s.sums.digest[:0])
	return s.sums
}
