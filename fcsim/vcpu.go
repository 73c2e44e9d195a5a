package fcsim

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/guest"
)

// pauseTimeout is how long Firecracker waits for its vCPUs (RECV_TIMEOUT_SEC): a
// vCPU in a page fault that nobody answers does not pause.
const pauseTimeout = 30 * time.Second

// cpus are the vCPUs and the program that they run. Nothing of the program's
// progress lives on a goroutine's stack: a vCPU does one step after another, each
// of which can be left between two pages, and whoever finds no vCPU inside a step
// sees, and may save, the whole guest.
//
// The first vCPU takes commands and reports; the others only visit pages.
type cpus struct {
	mem     *memory
	w       guest.Workload
	balloon *balloon
	console io.Writer
	onFault func() // a page could not be had: the process has to exit
	onReady func() // the first fill is over; called with mu held

	// leave asks vCPUs to leave their step at the next page.
	leave atomic.Bool

	mu       sync.Mutex
	changed  *sync.Cond
	paused   bool
	shutdown bool
	inside   int // vCPUs that are in a step
	input    []byte
	progress progress
}

// maxInput is the size of a serial port's FIFO in bytes. Input beyond waits in
// the pipe.
const maxInput = 64

// newCPUs returns paused vCPUs; start makes them exist and resume makes them run.
func newCPUs(mem *memory, w guest.Workload, p progress, b *balloon, console io.Writer, onFault, onReady func()) *cpus {
	c := &cpus{mem: mem, w: w, balloon: b, console: console, onFault: onFault, onReady: onReady, paused: true, progress: p}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *cpus) start() {
	for i := range c.progress.Shares {
		go c.vcpu(i)
	}
}

// boot makes the guest fill its memory as soon as it runs.
func (c *cpus) boot() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.begin(filling)
}

// vcpu is the life of one vCPU.
func (c *cpus) vcpu(i int) {
	// It is never unlocked: the thread is the vCPU and ends with it.
	runtime.LockOSThread()
	if !c.mem.guard(func() { c.steps(i) }) {
		c.onFault()
	}
}

func (c *cpus) steps(i int) {
	c.mu.Lock()
	for !c.shutdown {
		step := c.next(i)
		if step == nil {
			c.changed.Wait()
			continue
		}
		c.inside++
		c.mu.Unlock()
		// A step that panics because of a fault never comes back and stays
		// inside: the process is about to exit.
		commit := step()
		c.mu.Lock()
		commit()
		c.inside--
		c.changed.Broadcast()
	}
	c.mu.Unlock()
}

// next returns what vCPU i has to do now, or nil when it is paused or halted. The
// step runs outside the lock; what it returns runs inside.
func (c *cpus) next(i int) (step func() (commit func())) {
	p := &c.progress
	switch {
	case c.paused:
		return nil
	case p.Shares[i].Next < p.visits(c.w):
		pass, s := p.Phase, p.Shares[i]
		return func() func() {
			c.visit(i, pass, &s)
			return func() { p.Shares[i] = s }
		}
	case i != 0 || !p.done(c.w):
		return nil
	case p.Phase != idle:
		return c.finish
	case p.Round:
		return func() func() {
			return func() { p.Round = false; p.begin(checking) }
		}
	case len(c.input) > 0:
		command := c.input[0]
		c.input = c.input[:copy(c.input, c.input[1:])]
		return func() func() { return c.obey(command) }
	case p.Auto:
		return func() func() {
			begun := c.beginWrite()
			return func() { begun(); p.Round = true }
		}
	}
	return nil
}

// pause makes the vCPUs leave guest memory and waits until they have. When the
// timeout is over it gives up waiting, but not pausing: a vCPU that gets its page
// later stops then.
func (c *cpus) pause(timeout time.Duration) bool {
	c.leave.Store(true)
	deadline := time.Now().Add(timeout)
	late := time.AfterFunc(timeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
	for c.inside > 0 && time.Now().Before(deadline) {
		c.changed.Wait()
	}
	return c.inside == 0
}

func (c *cpus) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave.Store(false)
	c.paused = false
	c.changed.Broadcast()
}

// stop ends the vCPUs and waits for them; only for machines whose memory goes
// away while the process stays.
func (c *cpus) stop() {
	c.leave.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shutdown = true
	c.changed.Broadcast()
	for c.inside > 0 {
		c.changed.Wait()
	}
}

// saved returns a copy of the progress; the vCPUs must be paused.
func (c *cpus) saved() progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.progress
	p.Shares = append([]share(nil), p.Shares...)
	return p
}

// feed is the serial port's receiver: it reads commands until in ends. A guest
// that is paused or busy leaves them where they are once the FIFO is full.
func (c *cpus) feed(in io.Reader) {
	var buf [maxInput]byte
	for {
		n, err := in.Read(buf[:])
		c.mu.Lock()
		for _, command := range buf[:n] {
			for len(c.input) == maxInput && !c.shutdown {
				c.changed.Wait()
			}
			c.input = append(c.input, command)
			c.changed.Broadcast()
		}
		over := c.shutdown
		c.mu.Unlock()
		if err != nil || over {
			return
		}
	}
}
