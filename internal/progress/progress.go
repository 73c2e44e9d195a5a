// Package progress draws one line on a terminal that says how far a piece of work
// is. Work that takes less than a second is not shown, and neither is any work where
// the output is no terminal: whoever reads a log wants results.
//
// A [Bar] owns one goroutine and the terminal's current line between Start and Stop.
// Its lock is a leaf.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = time.Second            // before the line appears
	interval = 100 * time.Millisecond // between two drawings
	width    = 24                     // of the bar, in characters
)

// IsTerminal reports whether out is a terminal.
func IsTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// Bar shows the progress of one piece of work.
type Bar struct {
	out   io.Writer
	began time.Time
	stop  chan struct{} // closed by Stop; nil for a bar that shows nothing
	ended chan struct{} // closed by the goroutine

	mu          sync.Mutex
	step        string // protected by mu
	done, total int64  // protected by mu
}

// Start returns a bar that begins to show itself after a second. The caller stops
// it.
func Start(out io.Writer, step string) *Bar {
	b := &Bar{out: out, began: time.Now(), step: step}
	if !IsTerminal(out) {
		return b
	}
	b.stop, b.ended = make(chan struct{}), make(chan struct{})
	go b.draw()
	return b
}

// Set says what is being done and how much of it is: done of total, or 0 and 0 for
// a step that cannot be counted.
func (b *Bar) Set(step string, done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.step, b.done, b.total = step, done, total
}

// Stop takes the line away. Stopping twice does nothing.
func (b *Bar) Stop() {
	if b.stop == nil {
		return
	}
	close(b.stop)
	<-b.ended
	b.stop = nil
}

func (b *Bar) draw() {
	defer close(b.ended)
	select {
	case <-b.stop:
		return
	case <-time.After(patience):
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		fmt.Fprintf(b.out, "\r\x1b[K%s", b.line(time.Since(b.began)))
		select {
		case <-b.stop:
			fmt.Fprint(b.out, "\r\x1b[K")
			return
		case <-tick.C:
		}
	}
}

// line is what the terminal shows after a time.
func (b *Bar) line(elapsed time.Duration) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seconds := fmt.Sprintf("%.0fs", elapsed.Seconds())
	if b.total <= 0 {
		return b.step + " " + seconds
	}
	full := int(min(width, max(0, b.done*width/b.total)))
	return fmt.Sprintf("%s [%s%s] %d of %d %s", b.step, strings.Repeat("#", full), strings.Repeat(".", width-full), b.done, b.total, seconds)
}
