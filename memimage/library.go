package memimage

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
)

// Library opens memory images so that all who open the same stack share one
// *Image: its files and its resolved index exist once, in whosever directories
// the layers have their names. The zero Library is ready for use.
type Library struct {
	// mu guards images. It is never held across I/O.
	mu sync.Mutex
	// images holds the open images by their stacks. An image is in it
	// from its first opening to its last Close.
	images map[string]*Image
}

// Open is like the function [Open], but gives a further hold of an image that is
// open already with the same layers. The files that manifestPath names are still
// checked for being there and of the right size.
func (l *Library) Open(manifestPath string) (*Image, error) {
	var img *Image
	err := withManifest(manifestPath, func(m Manifest) (err error) {
		img, err = l.open(manifestPath, m)
		return err
	})
	return img, err
}

// open opens an image whose manifest has been read.
func (l *Library) open(manifestPath string, m Manifest) (*Image, error) {
	key := m.Stack()
	if img := l.retain(key); img != nil {
		if err := checkFiles(filepath.Dir(manifestPath), m); err != nil {
			return nil, errors.Join(err, img.Close())
		}
		return img, nil
	}
	img, err := openStack(manifestPath, m)
	if err != nil {
		return nil, err
	}
	kept := l.add(key, img)
	if kept != img {
		if err := img.Close(); err != nil {
			return nil, errors.Join(err, kept.Close())
		}
	}
	return kept, nil
}

// Len returns the number of different images that are open.
func (l *Library) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.images)
}

// retain returns the image of a stack with one more hold, or nil.
func (l *Library) retain(key string) *Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	img := l.images[key]
	// An image whose last holder has just left stays here for a moment.
	if img == nil || img.Retain() != nil {
		return nil
	}
	return img
}

// add enters an image, unless another opener was faster: then it returns that
// one's with one more hold.
func (l *Library) add(key string, img *Image) *Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.images[key]; other != nil && other.Retain() == nil {
		return other
	}
	if l.images == nil {
		l.images = make(map[string]*Image)
	}
	l.images[key] = img
	img.forget = func() { l.remove(key, img) }
	return img
}

func (l *Library) remove(key string, img *Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.images[key] == img {
		delete(l.images, key)
	}
}

// checkFiles checks that the layers and indexes of an image in dir are there.
func checkFiles(dir string, m Manifest) error {
	for _, entry := range m.Layers {
		mem, idx := layerPaths(dir, entry)
		size, err := regularSize(mem)
		if err != nil {
			return err
		}
		if err := checkLayerSize(mem, size, entry.Size); err != nil {
			return err
		}
		if _, err := regularSize(idx); err != nil {
			return err
		}
	}
	return nil
}

// regularSize opens a file as a layer or index would be, and returns its size.
func regularSize(path string) (uint64, error) {
	f, size, err := openRegular(path, os.O_RDONLY, remedyComplete)
	if err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, openError(path, remedyComplete, err)
	}
	return size, nil
}
