package memimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// SupersedeOptions says what takes the place of what. All fields are required.
type SupersedeOptions struct {
	// Manifest is the path of the owner's memory.json.
	Manifest string
	// Was is the stack that the owner's image begins with, or is.
	Was Manifest
	// From is the path of the manifest of an image that has the memory of Was:
	// what Flatten or ShareImage made of it.
	From string
}

// Supersede lets the layers of another image take the place of the oldest layers of
// an owner's, which have the same memory: the owner's directory gets names of its
// own for them and what belongs to them, and then a new memory.json. Where both
// images have the same layers, the owner gets the checksums that it lacks.
//
// So a stack is merged once for all owners, also for those who have put further
// layers on top of it meanwhile, and they share the merged layer as they shared the
// stack. Like [Share] it takes no time that depends on the size of memory, unless
// hard links are impossible. The owner's old names stay until [Prune].
//
// An image that does not begin with Was gives a *FileError of reason
// [ErrMismatch]. As with [Flatten], the directory is an image of the same memory at
// any time, and after an error memory.json is as it was, unless only the last fsync
// failed. Only the owner of the directory may call it.
func Supersede(ctx context.Context, o SupersedeOptions) (SharedImage, error) {
	out, err := supersede(ctx, o)
	if err != nil {
		return SharedImage{}, fmt.Errorf("supersede layers of %s: %w", o.Manifest, err)
	}
	return out, nil
}

func supersede(ctx context.Context, o SupersedeOptions) (SharedImage, error) {
	m, err := ReadManifest(o.Manifest)
	if err != nil {
		return SharedImage{}, err
	}
	from, err := ReadManifest(o.From)
	if err != nil {
		return SharedImage{}, err
	}
	if !m.BeginsWith(o.Was) || from.Size != m.Size {
		return SharedImage{}, &FileError{
			Path: o.Manifest, Reason: ErrMismatch, Remedy: "begin again with the image as it is now",
			Detail: fmt.Sprintf("the image has changed since %s was made of its layers", o.From),
		}
	}
	old := m
	m.Layers = append(append([]LayerEntry(nil), from.Layers...), old.Layers[len(o.Was.Layers):]...)
	if err := m.Validate(); err != nil {
		return SharedImage{}, err
	}
	s := sharing{from: filepath.Dir(o.From), dir: filepath.Dir(o.Manifest), out: SharedImage{Manifest: m, Rungs: make(map[Rung]int)}}
	if err := s.supersede(ctx, from, m.Stack() != old.Stack()); err != nil {
		return SharedImage{}, errors.Join(err, s.undo.rollBackUnless(o.Manifest, m))
	}
	return s.out, nil
}

// supersede gives the directory the layers of an image, and the manifest where that
// is another one than before.
func (s *sharing) supersede(ctx context.Context, from Manifest, changed bool) error {
	for _, entry := range from.Layers {
		for _, name := range []string{entry.File, entry.Index, SumsFile(entry.ID)} {
			// An equal id is equal content.
			_, err := os.Lstat(filepath.Join(s.dir, filepath.FromSlash(name)))
			if errors.Is(err, fs.ErrNotExist) {
				err = s.share(ctx, name)
			}
			if err != nil && !(name == SumsFile(entry.ID) && errors.Is(err, ErrMissing)) {
				return err
			}
		}
	}
	if err := atomicfile.SyncDir(filepath.Join(s.dir, LayersDir)); err != nil || !changed {
		return err
	}
	data, err := s.out.Manifest.Encode()
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(filepath.Join(s.dir, ManifestName), data, 0o644)
}
