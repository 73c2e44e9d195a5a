package instance

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/control"
)

// sessionUnknown is the pager's code for a session that it does not have.
const sessionUnknown = "session_unknown"

// pagerHandle finds the pager when it is needed first, and again when the one that
// it had was given up.
type pagerHandle struct {
	start func(ctx context.Context) (Pager, error)
	life  context.Context

	gate  gate // held alone while a pager is being started
	mu    sync.Mutex
	pager Pager // protected by mu
}

// get returns the pager.
func (h *pagerHandle) get(ctx context.Context) (Pager, error) {
	if h.start == nil {
		return nil, problem.New(http.StatusConflict, CodeNoBackend, "configure a pager, or use the backend file", "there is no pager")
	}
	if p := h.present(); p != nil {
		return p, nil
	}
	if err := h.gate.lock(ctx); err != nil {
		return nil, err
	}
	defer h.gate.unlock()
	if p := h.present(); p != nil {
		return p, nil
	}
	p, err := h.start(h.life)
	if err != nil {
		return nil, problem.New(http.StatusConflict, CodeNoBackend, "use the backend file, or see the pager's log", "the pager: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pager = p
	return p, nil
}

// present returns the pager that was found before, unless it was given up.
func (h *pagerHandle) present() Pager {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.pager.(interface{ Over() <-chan struct{} }); ok {
		select {
		case <-s.Over():
			h.pager = nil
		default:
		}
	}
	return h.pager
}

// closeSession ends a session; one that is not known has ended.
func (m *Manager) closeSession(ctx context.Context, id string) (control.Session, error) {
	if id == "" {
		return control.Session{}, nil
	}
	p, err := m.pager.get(ctx)
	if err != nil {
		return control.Session{}, err
	}
	s, err := p.CloseSession(ctx, id)
	var unknown *problem.Problem
	if errors.As(err, &unknown) && unknown.Code == sessionUnknown {
		return control.Session{}, nil
	}
	return s, err
}
