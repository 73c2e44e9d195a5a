package instance

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/problem"
)

// Wait waits until an instance is in one of the states, or no longer exists if
// none are given.
func (m *Manager) Wait(ctx context.Context, ref string, states ...State) (Instance, error) {
	sub := m.Subscribe()
	defer func() { sub.Close() }()
	e, err := m.find(ref)
	if err != nil {
		return Instance{}, err
	}
	for {
		now := e.describe()
		gone := e.isGone()
		switch {
		case gone && len(states) == 0, !gone && slices.Contains(states, now.State):
			return now, nil
		case gone:
			return Instance{}, notFound("instance", ref)
		}
		select {
		case <-ctx.Done():
			return now, stepFailed("wait", now.Name, "is "+string(now.State), context.Cause(ctx))
		case _, open := <-sub.C:
			if open {
				continue
			}
			if m.isClosed() {
				return now, problem.New(http.StatusServiceUnavailable, CodeClosed, "ask again when the daemon runs", "the manager is closed")
			}
			sub = m.Subscribe() // too slow: look again
		}
	}
}

func (m *Manager) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// Console follows what an instance's guest writes, from a byte of its log on, or
// where its VMM began if offset is negative; without a VMM it reads what there is.
// The caller closes it.
func (m *Manager) Console(ref string, offset int64) (*hypervisor.Console, error) {
	e, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	if vmm := e.process(); vmm != nil {
		c, err := vmm.Console(offset)
		if err != nil {
			return nil, problem.From(err)
		}
		return c, nil
	}
	over := make(chan struct{})
	close(over)
	c, err := hypervisor.OpenConsole(filepath.Join(e.dir, firecracker.ConsoleName), max(offset, 0), over)
	if err != nil {
		return nil, problem.New(http.StatusNotFound, CodeNotFound, "start the instance", "%s has no console output: %w", e.describe().Name, err)
	}
	return c, nil
}

// Send types into the console of a guest. What it does not read in time is refused.
func (m *Manager) Send(ctx context.Context, ref string, input []byte) error {
	e, err := m.find(ref)
	if err != nil {
		return err
	}
	vmm := e.process()
	if vmm == nil {
		now := e.describe()
		return problem.New(http.StatusConflict, CodeWrongState, "start or restore it", "%s is %s%s and has no console to type into", now.Name, now.State, because(now.Reason))
	}
	if err := vmm.Send(input); err != nil {
		return problem.From(err)
	}
	return nil
}
