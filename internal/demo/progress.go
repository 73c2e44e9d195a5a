package demo

import (
	"fmt"
	"io"
	"sync"

	terminal "github.com/faultline-vm/faultline/internal/progress"
)

// progress tells a person what is going on: on a terminal a count is one line
// that is written over, elsewhere a line per quarter.
type progress struct {
	out      io.Writer
	terminal bool

	mu       sync.Mutex
	counting bool // the cursor stands behind a count
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, terminal: terminal.IsTerminal(out)}
}

// say writes a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endCount()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// count shows how far a step is.
func (p *progress) count(step string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		if 4*done/total > 4*(done-1)/total {
			fmt.Fprintf(p.out, "%s %d of %d\n", step, done, total)
		}
		return
	}
	p.counting = true
	fmt.Fprintf(p.out, "\r\x1b[K%s %d of %d", step, done, total)
	if done == total {
		p.endCount()
	}
}

// close leaves the cursor at the beginning of a line.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endCount()
}

func (p *progress) endCount() {
	if p.counting {
		fmt.Fprintln(p.out)
		p.counting = false
	}
}
