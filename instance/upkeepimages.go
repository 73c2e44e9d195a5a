package instance

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/faultline-vm/faultline/memimage"
)

// images returns all memory images that the upkeep is for: the newest captures of
// instances, and snapshots.
func (m *Manager) images() []keptImage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []keptImage
	for _, e := range m.entries {
		id := e.record().Capture
		if id == "" {
			continue
		}
		list = append(list, keptImage{
			manifest: filepath.Join(e.captureDir(id), memimage.ManifestName), gate: &e.gate,
			still: func() bool { return e.keeps(id) },
		})
	}
	for _, s := range m.snapshots {
		if s.broken == "" {
			list = append(list, keptImage{
				manifest: s.open().ManifestPath(), gate: &s.gate,
				still: func() bool { return !s.gone },
			})
		}
	}
	return list
}

// keeps tells whether a capture is the newest of an instance about which nothing is
// open. The gate is held alone.
func (e *entry) keeps(captureID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.gone && e.broken == "" && e.rec.Capture == captureID && e.rec.Pending == nil
}

// prune removes from the newest capture what a flattening that was interrupted left.
// Nobody else has the instance.
func (e *entry) prune() error {
	id := e.record().Capture
	if id == "" {
		return nil
	}
	_, err := memimage.Prune(filepath.Join(e.captureDir(id), memimage.ManifestName))
	if errors.Is(err, memimage.ErrMissing) {
		return nil // to look at the instance says what is wrong
	}
	return err
}

// pauses knows whether guests stand still for their captures, so that nobody uses the
// disk or the CPU meanwhile who need not.
type pauses struct {
	mu sync.Mutex
	n  int           // captures under way, protected by mu
	no chan struct{} // closed when there is none any more; nil without one; protected by mu
}

// begin notes a capture; end it with the function returned.
func (p *pauses) begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n++; p.n == 1 {
		p.no = make(chan struct{})
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.n--; p.n == 0 {
			close(p.no)
			p.no = nil
		}
	}
}

// wait returns when no capture is under way, or ctx ends.
func (p *pauses) wait(ctx context.Context) {
	for {
		p.mu.Lock()
		no := p.no
		p.mu.Unlock()
		if no == nil {
			return
		}
		select {
		case <-no:
		case <-ctx.Done():
			return
		}
	}
}
