package memimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Prune removes from the directory of an image the names that its manifest does
// not need: layers that were superseded, and what an interrupted Flatten or
// WriteSums left. Other owners' names of the same layers stay, and so do open
// files. It leaves files alone that this package does not make, and returns the
// paths that it removed, also when it fails.
//
// Only the owner of the directory may call it, and nothing else may be under way
// there but readers: those who open the image while it is pruned find the new one.
func Prune(manifestPath string) ([]string, error) {
	m, err := ReadManifest(manifestPath)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(manifestPath)
	// Were a crash to bring back a manifest from before, its layers had better be
	// there.
	if err := atomicfile.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("prune %s: %w", manifestPath, err)
	}
	needed := make(map[LayerID]bool, len(m.Layers))
	for _, entry := range m.Layers {
		needed[entry.ID] = true
	}
	var removed []string
	for _, d := range []string{dir, filepath.Join(dir, LayersDir)} {
		names, err := removeNames(d, func(name string) bool {
			if atomicfile.IsTemporary(name) {
				return true
			}
			id, ok := layerOf(name)
			return ok && d != dir && !needed[id]
		})
		removed = append(removed, names...)
		if err != nil {
			return removed, fmt.Errorf("prune %s: %w", manifestPath, err)
		}
	}
	return removed, nil
}

// layerOf returns the layer that a file in a directory of layers belongs to.
func layerOf(name string) (LayerID, bool) {
	base, ext, _ := strings.Cut(name, ".")
	id, err := ParseLayerID(base)
	return id, err == nil && (ext == "mem" || ext == "idx" || ext == "sum")
}

// removeNames removes the files of dir that unwanted says, and makes that durable.
func removeNames(dir string, unwanted func(name string) bool) (removed []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() || !unwanted(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := os.Remove(path); err == nil {
			removed = append(removed, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(removed) > 0 {
		errs = append(errs, atomicfile.SyncDir(dir))
	}
	return removed, errors.Join(errs...)
}
