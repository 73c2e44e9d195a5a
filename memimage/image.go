package memimage

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"sync/atomic"
)

// Image is an open memory image with its stack resolved. It is immutable but for
// the number of its holders; any number of goroutines may use it.
//
// Open gives one hold. Each Retain adds one and each Close takes one; with the
// last the layers' files are closed, and no method but Retain and Close may be
// called any more.
type Image struct {
	manifest Manifest
	path     string
	layers   []*Layer
	resolved *resolved
	holders  atomic.Int64
	// forget runs once, after the last Close. Nil where nobody has to know.
	forget func()
}

// Location is where the bytes of a page are. The value Location{} is nowhere: the
// page lies outside the image.
type Location struct {
	// Zero tells that the page is zero bytes. Layer is nil then.
	Zero bool
	// Layer has the page at byte Offset of its file.
	Layer  *Layer
	Offset int64
}

// Extent is a stretch of consecutive pages that lie one after the other in one
// layer, or that are all zero.
type Extent struct {
	// Page is the first page's number.
	Page uint64
	// Pages is the length, at least 1.
	Pages uint64
	// Location is that of the first page; the others follow it.
	Location Location
}

// Open opens the memory image whose manifest is at manifestPath, with one hold.
// It checks that every layer and index is there, is readable, is of the right size
// and belongs to the image; it reads no page. Faults of a file come as *FileError.
func Open(manifestPath string) (*Image, error) {
	var img *Image
	err := withManifest(manifestPath, func(m Manifest) (err error) {
		img, err = openStack(manifestPath, m)
		return err
	})
	return img, err
}

// openStack opens the layers of a validated manifest and resolves them.
func openStack(path string, m Manifest) (*Image, error) {
	img := &Image{manifest: m, path: path}
	img.holders.Store(1)
	indexes := make([]*Index, 0, len(m.Layers))
	for _, entry := range m.Layers {
		layer, index, err := openLayer(filepath.Dir(path), entry)
		if err != nil {
			return nil, errors.Join(err, img.closeLayers())
		}
		img.layers = append(img.layers, layer)
		indexes = append(indexes, index)
	}
	img.resolved = resolveStack(indexes)
	return img, nil
}

// Path returns the path of the manifest as it was opened.
func (img *Image) Path() string { return img.path }

// Size returns the guest's memory in bytes, a multiple of PageSize.
func (img *Image) Size() uint64 { return img.manifest.Size }

// Pages returns the number of pages, at least 1.
func (img *Image) Pages() uint64 { return img.manifest.Pages() }

// Manifest returns the image's manifest. The caller must not change its layers.
func (img *Image) Manifest() Manifest { return img.manifest }

// Layers returns the layers, oldest first. The caller must not change the slice.
func (img *Image) Layers() []*Layer { return img.layers }

// FlatPath returns the path of the one layer of a flat image, which a VMM can map
// as it is. A stack gives [ErrNotFlat].
func (img *Image) FlatPath() (string, error) {
	if len(img.layers) != 1 {
		return "", fmt.Errorf("image %s of %d layers: %w", img.path, len(img.layers), ErrNotFlat)
	}
	return img.layers[0].path, nil
}

// Resolve returns where a page is: in the topmost layer that has it. It returns
// Location{} for a page past the end. It takes no lock and does not allocate.
func (img *Image) Resolve(page uint64) Location {
	if page >= img.resolved.pages {
		return Location{}
	}
	return img.location(img.resolved.find(page), page)
}

// ResolveRun returns where a page is and how many pages, it included and at most
// limit, follow each other there. The number is 0 for a page past the end and for a
// limit of 0. It takes no lock and does not allocate.
func (img *Image) ResolveRun(page, limit uint64) (Location, uint64) {
	if page >= img.resolved.pages || limit == 0 {
		return Location{}, 0
	}
	i := img.resolved.find(page)
	return img.location(i, page), min(limit, img.resolved.end(i)-page)
}

// Extents yields, in page order and without gaps, the extents of the pages from
// first on, at most count of them. An extent is never longer than it has to be
// to reach the next place: neighbours lie in different layers.
func (img *Image) Extents(first, count uint64) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		r := img.resolved
		if first >= r.pages || count == 0 {
			return
		}
		end := first + min(count, r.pages-first)
		for i, page := r.find(first), first; page < end; i++ {
			n := min(r.end(i), end) - page
			if !yield(Extent{Page: page, Pages: n, Location: img.location(i, page)}) {
				return
			}
			page += n
		}
	}
}

// location returns the place of a page of resolved run i.
func (img *Image) location(i int, page uint64) Location {
	source := img.resolved.runs[i] & sourceMask
	if source == sourceZero {
		return Location{Zero: true}
	}
	// Layers hold every page at its natural offset.
	return Location{Layer: img.layers[source-1], Offset: int64(page * PageSize)}
}

// ReadAt reads the guest's memory at byte off, as [io.ReaderAt] says: less than
// len(p) bytes only with an error, io.EOF at the end of the image. It never
// gives zeros for bytes that it could not read.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read image %s at negative offset %d", img.path, off)
	}
	done := 0
	for done < len(p) {
		at := uint64(off) + uint64(done)
		want := uint64(len(p) - done)
		skip := at % PageSize
		loc, pages := img.ResolveRun(at/PageSize, (skip+want+PageSize-1)/PageSize)
		if pages == 0 {
			return done, io.EOF
		}
		part := p[done : uint64(done)+min(want, pages*PageSize-skip)]
		if loc.Zero {
			clear(part)
		} else if n, err := loc.Layer.ReadAt(part, loc.Offset+int64(skip)); err != nil {
			return done + n, err
		}
		done += len(part)
	}
	return done, nil
}

// Retain adds a hold. It fails with [ErrClosed] when the last one is gone.
func (img *Image) Retain() error {
	for {
		n := img.holders.Load()
		if n <= 0 {
			return fmt.Errorf("retain %s: %w", img.path, ErrClosed)
		}
		if img.holders.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

// Close gives up one hold, and closes the layers with the last one. A Close
// without a hold gives [ErrClosed].
func (img *Image) Close() error {
	for {
		n := img.holders.Load()
		if n <= 0 {
			return fmt.Errorf("close %s: %w", img.path, ErrClosed)
		}
		if !img.holders.CompareAndSwap(n, n-1) {
			continue
		}
		if n > 1 {
			return nil
		}
		if img.forget != nil {
			img.forget()
		}
		return img.closeLayers()
	}
}

func (img *Image) closeLayers() error {
	var errs []error
	for _, l := range img.layers {
		errs = append(errs, l.file.Close())
	}
	return errors.Join(errs...)
}
