package pager

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"golang.org/x/sys/unix"
)

// errWouldWait says that a page cannot be had without waiting for a disk or for
// somebody who is reading it already.
var errWouldWait = errors.New("the page is not in memory")

// reader reads bytes of layers. It is an interface so that tests can make reads
// slow, short or failing.
type reader interface {
	// readNow fills buf without waiting for I/O, or returns errWouldWait.
	readNow(l *layer, buf []byte, offset int64) error
	// read fills buf, and waits as long as that takes. It returns an error
	// rather than less than all of buf.
	read(l *layer, buf []byte, offset int64) error
}

// layer is one layer of a session's image as the fault path needs it. It stays
// valid as long as the session holds the image. Immutable.
type layer struct {
	*memimage.Layer
	key [16]byte // the layer's id
	fd  int
}

// layerOf returns the layer of a location. Stacks are short, so it looks at them
// in turn; nil says that the location is not of this image.
func layerOf(layers []layer, l *memimage.Layer) *layer {
	for i := range layers {
		if layers[i].Layer == l {
			return &layers[i]
		}
	}
	return nil
}

// wrapLayers prepares the layers of an image.
func wrapLayers(img *memimage.Image) ([]layer, error) {
	layers := make([]layer, len(img.Layers()))
	for i, l := range img.Layers() {
		layers[i] = layer{Layer: l, fd: int(l.File().Fd())}
		if _, err := hex.Decode(layers[i].key[:], []byte(l.ID())); err != nil {
			return nil, fmt.Errorf("layer id %q of %s: %w", l.ID(), img.Path(), err)
		}
	}
	return layers, nil
}

// fileReader reads layers from their files.
type fileReader struct {
	// pause is the time before the first repetition of a failed read; it doubles.
	pause time.Duration
	// retried is told of each repetition.
	retried func()
	copies  copies
}

// readRetries is how often a failed or short read is repeated before it counts.
const readRetries = 3

// readNow reads what the kernel's page cache holds. A filesystem that cannot say
// what it holds (EOPNOTSUPP) makes every page wait for a worker.
func (r *fileReader) readNow(l *layer, buf []byte, offset int64) error {
	n, err := unix.Preadv2(l.fd, [][]byte{buf}, offset, unix.RWF_NOWAIT)
	if err != nil || n != len(buf) {
		// An error or a short read may be passing, and a worker may repeat it.
		return errWouldWait
	}
	return nil
}

// read repeats a read that fails, and then looks for a copy of the layer. Once a copy
// has answered, a failure of the layer's own file is not waited for again.
func (r *fileReader) read(l *layer, buf []byte, offset int64) error {
	var last error
	for try := range 1 + readRetries {
		if try > 0 {
			if r.copies.known(l) != nil {
				break
			}
			r.retried()
			time.Sleep(r.pause << (try - 1))
		}
		if last = readFull(l.fd, buf, offset); last == nil {
			return nil
		}
	}
	missed := r.copies.readFull(l, buf, offset)
	if missed == nil {
		return nil
	}
	return fmt.Errorf("layer %s: %d bytes at offset %d of %s: %w; %w", l.ID(), len(buf), offset, l.Path(), last, missed)
}

func readFull(fd int, buf []byte, offset int64) error {
	for done := 0; done < len(buf); {
		n, err := unix.Pread(fd, buf[done:], offset+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("the file was truncated while in use: %w", io.ErrUnexpectedEOF)
		default:
			done += n
		}
	}
	return nil
}

// source gives sessions the pages of layers through the shared cache.
type source struct {
	cache  *pageCache
	reader reader
}

// page returns the 4 KiB page at offset of l. The bytes stay valid until the pin
// is released; they lie in scratch, which holds one page, when the cache has no
// room. Without wait it returns errWouldWait rather than wait for anything. The
// number of bytes read from the layer is returned with them.
func (s *source) page(l *layer, offset int64, scratch []byte, wait bool) (data []byte, p pin, read int, err error) {
	p, found := s.cache.acquire(cacheKey{l.key, uint64(offset) / control.PageSize}, wait)
	load := s.reader.readNow
	if wait {
		load = s.reader.read
	}
	switch found {
	case cacheHit:
		return p.data, p, 0, nil
	case cacheBusy:
		return nil, pin{}, 0, errWouldWait
	case cacheFull:
		err = load(l, scratch, offset)
		return scratch, pin{}, len(scratch), err
	}
	if err := load(l, p.data, offset); err != nil {
		p.abandon()
		return nil, pin{}, 0, err
	}
	p.commit()
	return p.data, p, len(p.data), nil
}

// stretch fills buf with consecutive bytes of l, past the cache.
func (s *source) stretch(l *layer, buf []byte, offset int64) error {
	return s.reader.read(l, buf, offset)
}
