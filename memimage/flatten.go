package memimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// FlattenOptions says what to merge, and where to. Only Manifest is required.
type FlattenOptions struct {
	// Manifest is the path of the image's memory.json.
	Manifest string
	// Dir is the directory of the merged image, which must exist and hold no
	// image. Empty is the directory of Manifest: there memory.json is replaced.
	Dir string
	// Spare is how many bytes the filesystem shall have free afterwards. Where that
	// cannot be, nothing is copied and the error is ENOSPC. That the filesystem may
	// share blocks is not counted on. 0 looks at nothing.
	Spare uint64
	// Progress is told the bytes of data that have been copied.
	Progress Progress
}

// Flattened is what Flatten made.
type Flattened struct {
	// Manifest is the content of the new memory.json, of one layer.
	Manifest Manifest
	// Pages counts the pages of that layer by state.
	Pages Counts
	// Superseded are the layers that memory.json no longer names. Their files
	// are still there; see [Prune].
	Superseded []LayerID
}

// Flatten merges the layers of an image into a new full layer, and publishes an
// image of that layer alone.
//
// It changes no layer and takes none away: whoever has the old stack open, mapped or
// shared keeps it. A flat image is left as it is, or shared when Dir is given. The
// states of the directory, in order; each step is durable before the next begins:
//
//	stack      memory.json names the old layers; a temporary file may grow
//	merged     layers/<new id>.mem, and then .idx, are there
//	published  memory.json names the new layer alone
//	pruned     the old layers' names are gone; that is the owner's [Prune]
//
// Memory.json is replaced by a rename: at any time the directory is an image, and
// its memory is the same. When Flatten fails, or ctx ends, it goes back to stack,
// unless only the last fsync of the directory failed: then either state may be
// found, both of them complete. After a crash Prune removes what is left over.
//
// Unchanged pages are not read where the filesystem can share blocks
// (copy_file_range on btrfs and XFS). Flatten copies what the layers' files hold;
// where bit rot is feared, [Verify] comes first. The new layer has no checksums
// until [WriteSums].
func Flatten(ctx context.Context, o FlattenOptions) (Flattened, error) {
	if o.Dir != "" {
		if err := checkFree(o.Dir); err != nil {
			return Flattened{}, err
		}
	}
	img, err := Open(o.Manifest)
	if err != nil {
		return Flattened{}, err
	}
	out, err := flatten(ctx, img, o)
	if err := errors.Join(err, img.Close()); err != nil {
		return Flattened{}, fmt.Errorf("flatten %s: %w", o.Manifest, err)
	}
	return out, nil
}

func flatten(ctx context.Context, img *Image, o FlattenOptions) (Flattened, error) {
	if len(img.layers) == 1 {
		if o.Dir != "" {
			if _, err := ShareImage(ctx, o.Manifest, o.Dir); err != nil {
				return Flattened{}, err
			}
		}
		return Flattened{Manifest: img.manifest, Pages: img.layers[0].counts}, nil
	}
	dir := o.Dir
	if dir == "" {
		dir = filepath.Dir(o.Manifest)
	}
	f := flattening{img: img, dir: dir, entry: newEntry(NewLayerID(), Full, img.Size())}
	if err := f.requireRoom(o.Spare); err != nil {
		return Flattened{}, err
	}
	out, err := f.run(ctx, o.Progress)
	if err != nil {
		return Flattened{}, errors.Join(err, f.undo.rollBackUnless(f.manifestPath(), out.Manifest))
	}
	return out, nil
}

// flattening is one Flatten under way.
type flattening struct {
	img   *Image
	dir   string
	entry LayerEntry
	undo  undo
}

func (f *flattening) run(ctx context.Context, progress Progress) (Flattened, error) {
	if err := makeLayersDir(f.dir, &f.undo); err != nil {
		return Flattened{}, err
	}
	mem, idx := layerPaths(f.dir, f.entry)
	f.undo.add(func() error { return removeIfThere(mem) })
	if err := writeFlat(ctx, f.img, mem, 0o444, progress); err != nil {
		return Flattened{}, err
	}
	ix := flatIndex(f.img, f.entry.ID)
	f.undo.add(func() error { return removeIfThere(idx) })
	if err := atomicfile.WriteFile(idx, ix.Encode(), 0o444); err != nil {
		return Flattened{}, err
	}
	if err := ctx.Err(); err != nil {
		return Flattened{}, err
	}
	m := f.img.manifest
	out := Flattened{Pages: ix.Counts()}
	for _, old := range m.Layers {
		out.Superseded = append(out.Superseded, old.ID)
	}
	m.Layers = []LayerEntry{f.entry}
	out.Manifest = m
	data, err := m.Encode()
	if err != nil {
		return out, err
	}
	return out, atomicfile.WriteFile(f.manifestPath(), data, 0o644)
}

// requireRoom checks that so many bytes stay free besides what the merged layer takes.
func (f *flattening) requireRoom(spare uint64) error {
	if spare == 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.dir, &st); err != nil {
		return fmt.Errorf("room in %s: %w", f.dir, err)
	}
	need, free := dataBytes(f.img), st.Bavail*uint64(st.Bsize)
	if free < need || free-need < spare {
		return fmt.Errorf("the merged layer takes %d bytes of %d that are free in %s, of which %d shall stay: %w; make room", need, free, f.dir, spare, unix.ENOSPC)
	}
	return nil
}

// dataBytes is the memory of an image that is not zero.
func dataBytes(img *Image) (sum uint64) {
	for e := range img.Extents(0, img.Pages()) {
		if !e.Location.Zero {
			sum += e.Pages * PageSize
		}
	}
	return sum
}

func (f *flattening) manifestPath() string { return filepath.Join(f.dir, ManifestName) }

// flatIndex returns the index of a full layer id with the content of an image.
func flatIndex(img *Image, id LayerID) *Index {
	b := newIndexBuilder(id)
	for e := range img.Extents(0, img.Pages()) {
		if e.Location.Zero {
			b.add(Zero, e.Pages)
		} else {
			b.add(Data, e.Pages)
		}
	}
	return b.finish()
}

// writeFlat makes path a file with the memory of an image, its zero pages holes.
// Nothing may be at path; after an error nothing is.
func writeFlat(ctx context.Context, img *Image, path string, perm os.FileMode, progress Progress) error {
	counter := meter{report: progress, total: dataBytes(img)}
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	if err := mergeInto(ctx, f.File, img, &counter); err != nil {
		return errors.Join(err, f.Discard())
	}
	return f.Publish(perm)
}

// mergeInto copies the data of an image into an empty file.
func mergeInto(ctx context.Context, f *os.File, img *Image, progress *meter) error {
	if err := f.Truncate(int64(img.Size())); err != nil {
		return err
	}
	// One for each layer: they may be on different filesystems.
	copiers := make(map[*Layer]*copier, len(img.layers))
	for _, l := range img.layers {
		copiers[l] = &copier{dst: f, src: l.file, done: func(n int64) { progress.add(uint64(n)) }}
	}
	for e := range img.Extents(0, img.Pages()) {
		if e.Location.Zero {
			continue
		}
		if err := copiers[e.Location.Layer].copy(ctx, e.Location.Offset, int64(e.Pages*PageSize)); err != nil {
			return err
		}
	}
	return nil
}
