package memimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// SealOptions says what to make a layer of, and where. Source, Dir and Kind are
// required.
type SealOptions struct {
	// Source is the memory file that a VMM has finished writing. It must be a
	// regular file with this one name, of a multiple of PageSize bytes, on the
	// filesystem of Dir. Seal moves it into the image; but see Keep.
	Source string
	// Keep leaves Source untouched where it is, and copies its data pages into
	// the image. It may then have further names and be on any filesystem. Its
	// zero pages become holes of the layer, those of a diff too.
	Keep bool
	// Dir is the directory of the image. It must exist and hold no memory.json;
	// its subdirectory of layers is made when it is missing.
	Dir string
	// Kind says what the holes of Source mean.
	Kind Kind
	// Base is the image below a diff layer, and empty for a full one. Its layers
	// and indexes must already have names in Dir.
	Base Manifest
}

// Sealed is what Seal made.
type Sealed struct {
	// Manifest is the content of the new memory.json.
	Manifest Manifest
	// Layer is the id of the new layer, the last of the manifest.
	Layer LayerID
	// Pages counts the pages of the new layer by state.
	Pages Counts
	// ZeroData is how many of the zero pages were data in Source.
	ZeroData uint64
	// Punched tells that those are holes of the layer now.
	Punched bool
}

// Seal makes a layer of a memory file and publishes an image that ends in it.
//
// The states of Dir, in order; each step is durable before the next begins:
//
//	raw        nothing but the base's layers; Source is as the VMM left it, or
//	           with zero pages turned into holes (full layers only)
//	indexed    layers/<id>.idx is there
//	moved      layers/<id>.mem is there, Source is gone (or stays, with Keep)
//	published  memory.json is there: the image is complete
//
// When Seal fails, or ctx ends, it goes back to raw, and Source may be sealed
// again. A crash leaves any of the four; without memory.json the directory is
// not an image and can be removed as a whole.
//
// A full layer's zero pages become holes, where the filesystem can do that. The
// bytes of a diff that is moved are never touched: a zero page in it is data, for a hole would
// mean "absent" to anyone who has only the file, a second Seal after a failed one
// included. Its index says zero.
//
// Faults of a file come as *FileError.
func Seal(ctx context.Context, o SealOptions) (Sealed, error) {
	if err := o.check(); err != nil {
		return Sealed{}, err
	}
	s := sealing{o: o, id: NewLayerID()}
	if err := s.open(); err != nil {
		return Sealed{}, err
	}
	out, err := s.run(ctx)
	if err != nil {
		err = errors.Join(err, s.undo.rollBack())
	}
	// The file was synced before it was moved; nothing is pending that a failed
	// close could lose.
	_ = s.file.Close()
	if err != nil {
		return Sealed{}, fmt.Errorf("seal %s: %w", o.Source, err)
	}
	return out, nil
}

// check looks at the options alone.
func (o SealOptions) check() error {
	if err := o.Kind.check(); err != nil {
		return fmt.Errorf("seal %s: %w", o.Source, err)
	}
	if o.Kind == Full {
		if len(o.Base.Layers) != 0 {
			return fmt.Errorf("seal %s: a full layer has no base; leave it out or seal a diff", o.Source)
		}
		return nil
	}
	if err := o.Base.Validate(); err != nil {
		return fmt.Errorf("seal %s: base image: %w", o.Source, err)
	}
	return nil
}

// sealing is one Seal under way.
type sealing struct {
	o    SealOptions
	id   LayerID
	file *os.File
	size uint64
	mode fs.FileMode
	undo undo
}

// open opens the source, and checks all that can be known before work is done.
func (s *sealing) open() error {
	flag := os.O_RDONLY
	if s.o.Kind == Full && !s.o.Keep {
		flag = os.O_RDWR // for punching holes
	}
	f, size, err := openRegular(s.o.Source, flag, "give the path of the memory file that the VMM wrote")
	if err != nil {
		return err
	}
	s.file, s.size = f, size
	if err := s.checkSource(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := s.checkDir(); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

func (s *sealing) checkSource() error {
	info, err := s.file.Stat()
	if err != nil {
		return openError(s.o.Source, "", err)
	}
	s.mode = info.Mode().Perm()
	if s.size%PageSize != 0 || s.size/PageSize > MaxPages {
		return &FileError{
			Path: s.o.Source, Reason: ErrMismatch,
			Detail: fmt.Sprintf("%d bytes are no guest memory, which is a multiple of %d up to %d", s.size, PageSize, uint64(MaxPages)*PageSize),
			Remedy: "give the memory file, not the VM state, and only after the VMM has finished writing it",
		}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink != 1 && !s.o.Keep {
		return &FileError{
			Path: s.o.Source, Reason: ErrShared, Detail: fmt.Sprintf("it has %d names", st.Nlink),
			Remedy: "another owner may be using it: let the VMM write into a new file, or seal a copy",
		}
	}
	if s.o.Kind == Diff && s.o.Base.Size != s.size {
		return &FileError{
			Path: s.o.Source, Reason: ErrMismatch,
			Detail: fmt.Sprintf("%d bytes, its base image has %d", s.size, s.o.Base.Size),
			Remedy: "seal a diff over the image that its VM was restored from, or take a full capture",
		}
	}
	return nil
}

// checkDir checks that the directory is free and that the base is in it.
func (s *sealing) checkDir() error {
	if err := checkFree(s.o.Dir); err != nil {
		return err
	}
	for _, entry := range s.o.Base.Layers {
		layer, _, err := openLayer(s.o.Dir, entry)
		if err != nil {
			return fmt.Errorf("base image: %w", err)
		}
		if err := layer.file.Close(); err != nil {
			return fmt.Errorf("base image: %w", err)
		}
	}
	return nil
}

// run goes through all states. The context is looked at before each step.
func (s *sealing) run(ctx context.Context) (Sealed, error) {
	out, err := s.layer(ctx)
	if err != nil {
		return Sealed{}, err
	}
	if err := ctx.Err(); err != nil {
		return Sealed{}, err
	}
	return out, publishManifest(s.o.Dir, out.Manifest, &s.undo)
}

// layer goes from raw to moved.
func (s *sealing) layer(ctx context.Context) (Sealed, error) {
	found, err := scan(ctx, s.file, int64(s.size), s.id, s.o.Kind)
	if err != nil {
		return Sealed{}, err
	}
	ix := found.index
	out := Sealed{Layer: s.id, Pages: ix.Counts(), ZeroData: found.zeroData, Punched: s.o.Keep}
	if s.o.Kind == Full && found.zeroData > 0 && !s.o.Keep {
		if out.Punched, err = punch(ctx, s.file, ix); err != nil {
			return Sealed{}, err
		}
	}
	if s.o.Kind == Diff && found.zeroData > 0 {
		if err := s.requireFineHoles(found.fine); err != nil {
			return Sealed{}, err
		}
	}
	entry := newEntry(s.id, s.o.Kind, s.size)
	out.Manifest = Manifest{Version: manifestVersion, Size: s.size, PageSize: PageSize}
	out.Manifest.Layers = append(append(out.Manifest.Layers, s.o.Base.Layers...), entry)
	if err := out.Manifest.Validate(); err != nil {
		return Sealed{}, err
	}
	mem, idx := layerPaths(s.o.Dir, entry)
	if err := ctx.Err(); err != nil {
		return Sealed{}, err
	}
	if err := s.writeIndex(idx, ix); err != nil {
		return Sealed{}, err
	}
	if err := ctx.Err(); err != nil {
		return Sealed{}, err
	}
	if s.o.Keep {
		return out, s.copy(ctx, mem, ix)
	}
	return out, s.move(mem)
}

// writeIndex goes from raw to indexed.
func (s *sealing) writeIndex(path string, ix *Index) error {
	if err := makeLayersDir(s.o.Dir, &s.undo); err != nil {
		return err
	}
	s.undo.add(func() error { return removeIfThere(path) })
	return atomicfile.WriteFile(path, ix.Encode(), 0o444)
}

// move goes from indexed to moved. The mode is changed through the open file, and
// first: under its new name the layer is never writable.
func (s *sealing) move(path string) error {
	s.undo.add(func() error { return s.file.Chmod(s.mode) })
	if err := s.file.Chmod(0o444); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(s.o.Source, path); err != nil {
		if errors.Is(err, unix.EXDEV) {
			return &FileError{
				Path: s.o.Source, Reason: ErrOtherFilesystem, Err: err,
				Remedy: "let the VMM write onto the filesystem of " + s.o.Dir + ", or seal with Keep",
			}
		}
		return err
	}
	s.undo.add(func() error { return os.Rename(path, s.o.Source) })
	return atomicfile.SyncDir(filepath.Dir(path))
}

// removeIfThere removes a file that a failed step may or may not have made.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
