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

// SharedImage says how the files of an image were shared.
type SharedImage struct {
	// Manifest is the content of both images' memory.json.
	Manifest Manifest
	// Rungs counts the files by the rung that worked.
	Rungs map[Rung]int
	// Reasons has one entry for each file that could not be hard-linked; see
	// [Shared].
	Reasons []error
}

// ShareImage makes dstDir an image of its own with the content of the image at
// srcManifest: names of its own for all layers and what belongs to them, then the
// manifest. It takes time by the number of layers and reads or writes no byte of
// memory, unless hard links are impossible (see [Share]).
//
// DstDir must exist and hold no image. When ShareImage fails, dstDir is as it was;
// a crash leaves it without memory.json, and it can be removed as a whole.
func ShareImage(ctx context.Context, srcManifest, dstDir string) (SharedImage, error) {
	return shareImage(ctx, srcManifest, dstDir, true)
}

// ShareLayers is like ShareImage but writes no manifest. It prepares a directory
// into which a diff over the image is going to be sealed.
func ShareLayers(ctx context.Context, srcManifest, dstDir string) (SharedImage, error) {
	return shareImage(ctx, srcManifest, dstDir, false)
}

func shareImage(ctx context.Context, srcManifest, dstDir string, publish bool) (out SharedImage, err error) {
	if err := checkFree(dstDir); err != nil {
		return SharedImage{}, err
	}
	err = withManifest(srcManifest, func(m Manifest) error {
		s := sharing{from: filepath.Dir(srcManifest), dir: dstDir, out: SharedImage{Manifest: m, Rungs: make(map[Rung]int)}}
		if err := s.run(ctx, publish); err != nil {
			return errors.Join(err, s.undo.rollBack())
		}
		out = s.out
		return nil
	})
	if err != nil {
		return SharedImage{}, fmt.Errorf("share image %s to %s: %w", srcManifest, dstDir, err)
	}
	return out, nil
}

// sharing is one ShareImage under way.
type sharing struct {
	from, dir string
	out       SharedImage
	undo      undo
}

func (s *sharing) run(ctx context.Context, publish bool) error {
	if err := makeLayersDir(s.dir, &s.undo); err != nil {
		return err
	}
	for _, entry := range s.out.Manifest.Layers {
		for _, name := range []string{entry.File, entry.Index} {
			if err := s.share(ctx, name); err != nil {
				return err
			}
		}
		// Checksums are made later than the layer, and may not be there yet.
		if err := s.share(ctx, SumsFile(entry.ID)); err != nil && !errors.Is(err, ErrMissing) {
			return err
		}
	}
	if err := atomicfile.SyncDir(filepath.Join(s.dir, LayersDir)); err != nil {
		return err
	}
	if !publish {
		return nil
	}
	return publishManifest(s.dir, s.out.Manifest, &s.undo)
}

// share shares the file of a name below both directories.
func (s *sharing) share(ctx context.Context, name string) error {
	name = filepath.FromSlash(name)
	dst := filepath.Join(s.dir, name)
	shared, err := share(ctx, filepath.Join(s.from, name), dst)
	if err != nil {
		return err
	}
	s.undo.add(func() error { return os.Remove(dst) })
	s.out.Rungs[shared.Rung]++
	if shared.Reason != nil {
		s.out.Reasons = append(s.out.Reasons, shared.Reason)
	}
	return nil
}

// undo brings back the state before, last step first.
type undo []func() error

func (u *undo) add(step func() error) { *u = append(*u, step) }

// rollBack does all it can, and returns what it could not.
func (u undo) rollBack() error {
	var errs []error
	for i := len(u) - 1; i >= 0; i-- {
		if err := u[i](); err != nil {
			errs = append(errs, fmt.Errorf("roll back: %w", err))
		}
	}
	return errors.Join(errs...)
}

// rollBackUnless rolls back, unless the manifest at path is m already, which may need
// what would be taken away.
func (u undo) rollBackUnless(path string, m Manifest) error {
	now, err := ReadManifest(path)
	if err != nil && !errors.Is(err, ErrMissing) {
		return fmt.Errorf("roll back: %w", err)
	}
	if err == nil && now.Stack() == m.Stack() {
		return nil
	}
	return u.rollBack()
}

// checkFree checks that a directory is not an image yet.
func checkFree(dir string) error {
	path := filepath.Join(dir, ManifestName)
	if _, err := os.Lstat(path); err == nil {
		return &FileError{Path: path, Reason: ErrExists, Remedy: "give a new directory: an image is never changed"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return openError(path, "", err)
	}
	return nil
}

// makeLayersDir makes the directory of layers where it is missing.
func makeLayersDir(dir string, u *undo) error {
	layers := filepath.Join(dir, LayersDir)
	switch err := os.Mkdir(layers, 0o755); {
	case err == nil:
		u.add(func() error { return os.Remove(layers) })
		return atomicfile.SyncDir(dir)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	return nil
}

// publishManifest makes dir an image.
func publishManifest(dir string, m Manifest, u *undo) error {
	data, err := m.Encode()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, ManifestName)
	u.add(func() error { return removeIfThere(path) })
	return atomicfile.WriteFile(path, data, 0o644)
}

// withManifest calls f with the manifest at path. Where f misses a file because
// the image has been flattened and pruned in the meantime, it calls f again with
// the manifest that took its place; f must have gone back by then.
func withManifest(path string, f func(Manifest) error) error {
	m, err := ReadManifest(path)
	if err != nil {
		return err
	}
	for {
		err := f(m)
		if !errors.Is(err, ErrMissing) {
			return err
		}
		next, rerr := ReadManifest(path)
		if rerr != nil || next.Stack() == m.Stack() {
			return err
		}
		m = next
	}
}
