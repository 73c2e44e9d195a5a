package pager

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/faultline-vm/faultline/memimage"
)

// copies are other files of a session's layers, for when the file that the session
// has open cannot be read any more. Owners share a layer by hard links, which fail
// together; but an owner on another filesystem, or one that met EMLINK, has a copy of
// his own, and a layer of the same id holds the same bytes.
//
// They are looked for only after a read has failed for good, so nothing here is on the
// fault path of a healthy layer. mu is a leaf and is not held across I/O.
type copies struct {
	// places names the files that may hold a layer.
	places func(l *layer) []string
	log    *slog.Logger
	// read is told of each read that a copy answered.
	read func()

	mu    sync.Mutex
	files map[*memimage.Layer][]*os.File // those that answered once; protected by mu
}

// readFull fills buf from another file of the layer. Its error says what was tried.
func (c *copies) readFull(l *layer, buf []byte, offset int64) error {
	tried := make([]os.FileInfo, 0, 4)
	if own, err := l.File().Stat(); err == nil {
		tried = append(tried, own)
	}
	var failed []error
	for _, f := range c.known(l) {
		err := readFull(int(f.Fd()), buf, offset)
		if err == nil {
			c.read()
			return nil
		}
		failed = append(failed, fmt.Errorf("its copy %s: %w", f.Name(), err))
		if info, err := f.Stat(); err == nil {
			tried = append(tried, info)
		}
	}
	for _, path := range c.places(l) {
		f, info, err := openCopy(l, path, tried)
		if f == nil {
			if err != nil {
				failed = append(failed, err)
			}
			continue
		}
		tried = append(tried, info)
		if err := readFull(int(f.Fd()), buf, offset); err != nil {
			f.Close() // it was only read
			failed = append(failed, fmt.Errorf("its copy %s: %w", path, err))
			continue
		}
		c.log.Warn("a layer cannot be read; serving from another owner's copy", "layer", string(l.ID()), "unreadable", l.Path(), "copy", path)
		c.keep(l, f)
		c.read()
		return nil
	}
	if failed == nil {
		return errNoCopy
	}
	return errors.Join(failed...)
}

// errNoCopy says that all owners of a layer share one file.
var errNoCopy = errors.New("no owner has a copy of the layer in another file")

// openCopy opens a file of the layer. Without an error it returns nil for a file that
// is not there, or that is one of those that were tried already.
func openCopy(l *layer, path string, tried []os.FileInfo) (*os.File, os.FileInfo, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("its copy: %w", err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || uint64(info.Size()) != l.Size()) {
		err = fmt.Errorf("its copy %s is a %s of %d bytes, the layer a file of %d", path, info.Mode().Type(), info.Size(), l.Size())
	}
	for _, other := range tried {
		if err == nil && os.SameFile(info, other) {
			f.Close() // it was only looked at
			return nil, nil, nil
		}
	}
	if err != nil {
		f.Close() // the error above is what counts
		return nil, nil, err
	}
	return f, info, nil
}

// known returns the copies of a layer that answered before.
func (c *copies) known(l *layer) []*os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files[l.Layer]
}

// keep remembers a copy that answered. Two workers may find the same one at once, and
// then both hold it.
func (c *copies) keep(l *layer, f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = make(map[*memimage.Layer][]*os.File)
	}
	c.files[l.Layer] = append(c.files[l.Layer], f)
}

// close gives the files back. Nobody reads any more.
func (c *copies) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, files := range c.files {
		for _, f := range files {
			f.Close() // it was only read
		}
	}
	c.files = nil
}

// places names the files below the data directory, and beside the images of all
// sessions, that hold a layer if they exist: the names of layers are the same at every
// owner's.
func (p *Pager) places(l *layer) []string {
	name := filepath.Join(memimage.LayersDir, filepath.Base(l.Path()))
	var found []string
	for _, owner := range []string{"instances/*/captures/*", "snapshots/*", "uffd/*/sessions/*/" + imageDir} {
		// The pattern is one of ours, but a data directory may hold its characters;
		// then the copies below it are not found.
		paths, _ := filepath.Glob(filepath.Join(p.cfg.DataDir, owner, name))
		found = append(found, paths...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sessions {
		found = append(found, filepath.Join(filepath.Dir(s.imageArg), name))
	}
	return found
}
