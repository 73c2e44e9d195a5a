package memimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// maxFaults bounds how many damaged pages of a layer are listed one by one.
const maxFaults = 100

// Verification is what Verify found.
type Verification struct {
	// Layers are those of the image, oldest first.
	Layers []LayerCheck
}

// LayerCheck is what Verify found in one layer.
type LayerCheck struct {
	ID LayerID
	// Path is the layer's file.
	Path string
	// Digest is that of the content as it was read. It is empty where Err is set
	// or a page could not be read.
	Digest Digest
	// NoSums tells that the layer has no checksums: only what the index says of
	// zero pages could be checked.
	NoSums bool
	// Damaged is the number of damaged pages.
	Damaged uint64
	// Faults describes the first hundred of them, in page order.
	Faults []PageFault
	// Err tells why the layer's files could not be checked at all, or disagree
	// with each other as a whole. Nil where pages alone are at fault.
	Err error
}

// PageFault is one damaged page.
type PageFault struct {
	// Page is its number.
	Page uint64
	// Problem is what is wrong with it.
	Problem string
}

// Err returns nil when nothing is damaged, and else a *FileError that names the
// first damaged layer and its first damaged page. Missing checksums are no damage.
func (v Verification) Err() error {
	for _, l := range v.Layers {
		if l.Err != nil {
			return fmt.Errorf("layer %s: %w", l.ID, l.Err)
		}
		if l.Damaged > 0 {
			f := l.Faults[0]
			return &FileError{
				Path: l.Path, Reason: ErrCorrupt, Remedy: remedyRestore,
				Detail: fmt.Sprintf("layer %s, page %d: %s (%d pages of the layer are damaged)", l.ID, f.Page, f.Problem, l.Damaged),
			}
		}
	}
	return nil
}

// Verify reads all data of an image and compares it with the checksums and the
// page indexes: every data page has its checksum and is not zero, every page that
// the index calls zero reads as zero. What the file holds in absent pages has no
// meaning and is ignored.
//
// The error tells that the check could not be made: no manifest, or ctx ended.
// Damage is in the Verification; see [Verification.Err].
func Verify(ctx context.Context, manifestPath string, progress Progress) (Verification, error) {
	var v Verification
	err := withManifest(manifestPath, func(m Manifest) error {
		v = Verification{}
		counter := meter{report: progress, total: m.Size * uint64(len(m.Layers))}
		var missing error
		for _, entry := range m.Layers {
			check, err := verifyLayer(ctx, filepath.Dir(manifestPath), entry, &counter)
			if err != nil {
				return err
			}
			if errors.Is(check.Err, ErrMissing) {
				missing = check.Err
			}
			v.Layers = append(v.Layers, check)
		}
		return missing
	})
	if len(v.Layers) > 0 && errors.Is(err, ErrMissing) {
		// A layer that is still missing is a finding.
		err = nil
	}
	if err != nil {
		return Verification{}, fmt.Errorf("verify %s: %w", manifestPath, err)
	}
	return v, nil
}

// verifyLayer checks one layer. Its error is that of the context.
func verifyLayer(ctx context.Context, dir string, entry LayerEntry, progress *meter) (LayerCheck, error) {
	mem, _ := layerPaths(dir, entry)
	out := LayerCheck{ID: entry.ID, Path: mem}
	layer, ix, err := openLayer(dir, entry)
	if err != nil {
		out.Err = err
		return out, nil
	}
	defer layer.file.Close()
	sums, err := readSums(dir, entry.ID, ix.Counts().Data)
	if out.NoSums = errors.Is(err, ErrMissing); err != nil && !out.NoSums {
		out.Err = err
		return out, nil
	}
	c := checker{layer: layer, out: &out, summer: newSummer(ix), want: sums, zero: make([]byte, PageSize), progress: progress}
	for r := range ix.Runs() {
		c.summer.run(r)
		switch r.State {
		case Data:
			err = c.data(ctx, r)
		case Zero:
			err = c.zeros(ctx, r)
		case Absent:
			progress.add(r.Pages * PageSize)
			err = ctx.Err()
		}
		if err != nil {
			return out, err
		}
	}
	if c.unread {
		return out, nil
	}
	got := c.summer.finish()
	out.Digest = got.Digest()
	if sums != nil && out.Damaged == 0 && got.digest != sums.digest {
		out.Err = &FileError{
			Path: filepath.Join(dir, filepath.FromSlash(SumsFile(entry.ID))), Reason: ErrMismatch, Remedy: remedySums,
			Detail: fmt.Sprintf("its digest is %s, the content's %s", sums.Digest(), got.Digest()),
		}
	}
	return out, nil
}

// checker checks the content of one layer.
type checker struct {
	layer    *Layer
	out      *LayerCheck
	summer   *summer
	want     *Sums
	zero     []byte
	progress *meter
	// dataPages is the number of those in the runs so far.
	dataPages uint64
	// unread tells that a page could not be read, so that there is no digest.
	unread bool
}

func (c *checker) fault(page uint64, format string, args ...any) {
	c.out.Damaged++
	if len(c.out.Faults) < maxFaults {
		c.out.Faults = append(c.out.Faults, PageFault{Page: page, Problem: fmt.Sprintf(format, args...)})
	}
}

// data checks the pages of a data run.
func (c *checker) data(ctx context.Context, r Run) error {
	before := c.dataPages
	c.dataPages += r.Pages
	return c.each(ctx, r.Page, r.Page+r.Pages, func(page uint64, data []byte) {
		got := c.summer.page(data)
		n := before + page - r.Page
		switch {
		case c.want != nil && got != c.want.Sum(n):
			c.fault(page, "its checksum is %08x, that of the sealed page %08x", got, c.want.Sum(n))
		case bytes.Equal(data, c.zero):
			c.fault(page, "it is zero, its index says data")
		}
	})
}

// zeros checks the pages of a zero run, of which it reads only what the file does
// not have as holes.
func (c *checker) zeros(ctx context.Context, r Run) error {
	at, end := int64(r.Page*PageSize), int64((r.Page+r.Pages)*PageSize)
	for at < end {
		start, stop, err := nextData(c.layer.file, at, end)
		if err != nil {
			// Without knowledge of holes all has to be read.
			start, stop = at, end
		}
		start, stop = min(start, end), min(stop, end)
		c.progress.add(uint64(start - at))
		err = c.each(ctx, uint64(start)/PageSize, uint64(stop)/PageSize, func(page uint64, data []byte) {
			if !bytes.Equal(data, c.zero) {
				c.fault(page, "it holds data, its index says zero")
			}
		})
		if err != nil {
			return err
		}
		at = stop
	}
	return ctx.Err()
}

// each reads pages from first to end and calls visit with each that it can read.
func (c *checker) each(ctx context.Context, first, end uint64, visit func(page uint64, data []byte)) error {
	buf := c.summer.buf
	for first < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		pages := min(end-first, uint64(len(buf))/PageSize)
		part := buf[:pages*PageSize]
		// A page at a time where a piece fails: the fault needs its address.
		if _, err := c.layer.ReadAt(part, int64(first*PageSize)); err != nil && pages > 1 {
			for p := range pages {
				c.one(first+p, visit)
			}
		} else if err != nil {
			c.one(first, visit)
		} else {
			for p := range pages {
				visit(first+p, part[p*PageSize:(p+1)*PageSize])
			}
		}
		first += pages
		c.progress.add(pages * PageSize)
	}
	return nil
}

// one reads a single page, in the second attempt at it.
func (c *checker) one(page uint64, visit func(page uint64, data []byte)) {
	data := c.summer.buf[:PageSize]
	_, err := c.layer.ReadAt(data, int64(page*PageSize))
	if err == nil {
		visit(page, data)
		return
	}
	c.unread = true
	if errors.Is(err, io.EOF) || errors.Is(err, ErrTruncated) {
		c.fault(page, "the file ends before it")
	} else {
		c.fault(page, "it cannot be read: %v", err)
	}
}
