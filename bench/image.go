package bench

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/memimage"
)

// image is a flat memory image of which every page is data.
type image struct {
	manifest string // path of its memory.json
	memory   string // path of its one layer: the memory as one file
	pages    int
	sum      [sha256.Size]byte // of the memory
}

// size is the image's length in bytes.
func (i image) size() uint64 { return uint64(i.pages) * memimage.PageSize }

// makeImage makes an image in a directory that does not exist yet. Its bytes have
// just been written, so the kernel has them in its page cache.
func makeImage(ctx context.Context, dir string, pages int) (image, error) {
	i := image{manifest: filepath.Join(dir, memimage.ManifestName), pages: pages}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return image{}, fmt.Errorf("make the benchmark's memory image: %w", err)
	}
	raw := filepath.Join(dir, "raw")
	if err := i.write(raw); err != nil {
		return image{}, fmt.Errorf("write the benchmark's memory image: %w", err)
	}
	sealed, err := memimage.Seal(ctx, memimage.SealOptions{Source: raw, Dir: dir, Kind: memimage.Full})
	if err != nil {
		return image{}, err
	}
	opened, err := memimage.Open(i.manifest)
	if err != nil {
		return image{}, err
	}
	i.memory, err = opened.FlatPath()
	if err := errors.Join(err, opened.Close()); err != nil {
		return image{}, err
	}
	if holes := sealed.Pages.Zero; holes > 0 {
		return image{}, fmt.Errorf("%d pages of the benchmark's memory image are zeros", holes)
	}
	return i, nil
}

// write makes the raw memory file. Numbers of a fixed seed make no page of zeros.
func (i *image) write(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	hash := sha256.New()
	out := io.MultiWriter(file, hash)
	numbers := rand.NewPCG(1, 2)
	page := make([]byte, memimage.PageSize)
	for range i.pages {
		for at := 0; at < len(page); at += 8 {
			binary.LittleEndian.PutUint64(page[at:], numbers.Uint64())
		}
		if _, err := out.Write(page); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	hash.Sum(i.sum[:0])
	return file.Close()
}

// scattered returns the offset of every page once, in an order without pattern,
// the same each time.
func (i image) scattered() []uint64 {
	offsets := make([]uint64, i.pages)
	for n, page := range rand.New(rand.NewPCG(3, 4)).Perm(i.pages) {
		offsets[n] = uint64(page) * memimage.PageSize
	}
	return offsets
}
