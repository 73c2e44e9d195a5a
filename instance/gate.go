package instance

import (
	"context"
	"sync"
)

// gate keeps operations on one instance or snapshot apart: one that changes it is
// alone, those that only link its files go together. Unlike a sync.RWMutex it can
// be waited for with a context, and given up in part. It is fair to the one who
// wants to be alone.
type gate struct {
	mu      sync.Mutex
	shared  int           // holders, protected by mu
	alone   bool          // protected by mu
	waiting int           // those who want to be alone, protected by mu
	freed   chan struct{} // closed at the next change, protected by mu
}

// lockLast is lock for who has time: everybody else who waits goes first.
func (g *gate) lockLast(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.alone || g.shared > 0 || g.waiting > 0 {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	g.alone = true
	return nil
}

// lock waits until nobody else holds the gate, or ctx ends.
func (g *gate) lock(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting++
	defer func() { g.waiting-- }()
	for g.alone || g.shared > 0 {
		if err := g.wait(ctx); err != nil {
			g.wake() // those who stood behind us
			return err
		}
	}
	g.alone = true
	return nil
}

// share waits until nobody is or wants to be alone, or ctx ends.
func (g *gate) share(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.alone || g.waiting > 0 {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	g.shared++
	return nil
}

// tryShare is share without waiting.
func (g *gate) tryShare() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.alone || g.waiting > 0 {
		return false
	}
	g.shared++
	return true
}

// downgrade makes the holder who is alone one of several.
func (g *gate) downgrade() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alone = false
	g.shared++
	g.wake()
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alone = false
	g.wake()
}

func (g *gate) unshare() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shared--
	g.wake()
}

// wait lets go of mu until something changes.
func (g *gate) wait(ctx context.Context) error {
	if g.freed == nil {
		g.freed = make(chan struct{})
	}
	freed := g.freed
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-freed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *gate) wake() {
	if g.freed != nil {
		close(g.freed)
		g.freed = nil
	}
}
