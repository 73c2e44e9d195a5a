package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/bench/ref"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// handler serves the page faults of one process after the other.
type handler interface {
	// serve makes the handshake between the process and the handler, who from
	// then on serves its faults with the pages of img. The caller calls end
	// when the process has exited.
	serve(ctx context.Context, process faulting, img image) (end func() error, err error)
}

// ourPager is a running faultline-pager.
type ourPager struct{ client *client.Client }

func (h ourPager) serve(ctx context.Context, process faulting, img image) (func() error, error) {
	session, err := h.client.CreateSession(ctx, control.SessionRequest{
		ID: fmt.Sprintf("bench-%d", process.Pid()), Image: img.manifest,
	})
	if err != nil {
		return nil, fmt.Errorf("create a session: %w", err)
	}
	end := func() error {
		// Also after an interrupt the session must go, or the pager never drains.
		over, err := h.client.CloseSession(context.WithoutCancel(ctx), session.ID)
		if err == nil && over.State == control.Failed {
			err = fmt.Errorf("the pager ended its session: %s", over.Reason)
		}
		return err
	}
	if err := process.Handshake(session.Socket); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// reference is the handler in C. Each process gets one of its own.
type reference struct {
	built ref.Programs
	dir   string // for its sockets
}

func (h reference) serve(_ context.Context, process faulting, img image) (func() error, error) {
	socket := filepath.Join(h.dir, fmt.Sprintf("c-%d.sock", process.Pid()))
	serving, err := h.built.StartHandler(socket, img.memory)
	if err != nil {
		return nil, err
	}
	end := func() error { return errors.Join(serving.Kill(), os.Remove(socket)) }
	if err := process.Handshake(socket); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}
