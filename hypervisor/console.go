package hypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Polling the console: a guest that talks is read within firstPoll, one that is
// silent costs one read per lastPoll. Polling is preferred to inotify because
// hosts allow 128 inotify instances per user by default, fewer than guests.
const (
	firstPoll = time.Millisecond
	lastPoll  = 16 * time.Millisecond
)

// MaxLine is the length in bytes at which a console line is cut into several. A
// guest writes what it wants; one that never ends a line must not fill memory.
const MaxLine = 64 << 10

// Line is one line of serial output.
type Line struct {
	// Text is the line without its line feed and carriage return.
	Text string
	// End is the offset in console.log behind the line: where to go on.
	End int64
}

// Console follows the serial output of a VMM line by line. It is not safe for
// concurrent use, except that Close may be called at any time.
type Console struct {
	file   *os.File
	exited <-chan struct{}
	end    int64  // offset behind the bytes in buf
	buf    []byte // bytes read and not yet returned
	eof    bool   // the VMM has exited and the file was read to its end
}

// OpenConsole follows the file at path from offset on. After exited is closed
// nothing more is expected. A nil channel follows for ever.
func OpenConsole(path string, offset int64, exited <-chan struct{}) (*Console, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	return &Console{file: file, exited: exited, end: offset}, nil
}

// Close releases the file.
func (c *Console) Close() error { return c.file.Close() }

// Next returns the next line, waiting for the guest to end it. It returns io.EOF
// when the VMM has exited and every line was returned, the last of them even if
// the guest did not end it.
func (c *Console) Next(ctx context.Context) (Line, error) {
	wait := firstPoll
	for {
		if line, ok := c.cut(); ok {
			return line, nil
		}
		if c.eof {
			return Line{}, io.EOF
		}
		// Whether the VMM is gone must be known before the read that finds
		// nothing: what it wrote last is in the file by then.
		gone := c.gone()
		n, err := c.fill()
		switch {
		case err != nil:
			return Line{}, err
		case n > 0:
			wait = firstPoll
			continue
		case gone:
			c.eof = true
			continue
		}
		select {
		case <-ctx.Done():
			return Line{}, fmt.Errorf("waiting for console output: %w", context.Cause(ctx))
		case <-c.exited:
		case <-time.After(wait):
			wait = min(2*wait, lastPoll)
		}
	}
}

// cut takes a finished line out of the buffer.
func (c *Console) cut() (Line, bool) {
	length, terminator := bytes.IndexByte(c.buf, '\n'), 1
	switch {
	case length >= 0 && length <= MaxLine:
	case len(c.buf) >= MaxLine:
		length, terminator = MaxLine, 0
	case c.eof && len(c.buf) > 0:
		length, terminator = len(c.buf), 0
	default:
		return Line{}, false
	}
	text := bytes.TrimRight(c.buf[:length], "\r")
	line := Line{Text: string(text), End: c.end - int64(len(c.buf)-length-terminator)}
	c.buf = c.buf[length+terminator:]
	return line, true
}

// fill reads what the file holds behind c.end.
func (c *Console) fill() (int, error) {
	if cap(c.buf)-len(c.buf) < 4096 {
		c.buf = append(make([]byte, 0, len(c.buf)+MaxLine), c.buf...)
	}
	n, err := c.file.ReadAt(c.buf[len(c.buf):cap(c.buf)], c.end)
	c.buf = c.buf[:len(c.buf)+n]
	c.end += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read console: %w", err)
	}
	return n, nil
}

func (c *Console) gone() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}
