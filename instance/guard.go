package instance

import (
	"context"
	"errors"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// sessionExists is the pager's code for a session that it has already.
const sessionExists = "session_exists"

// revivalTime bounds how long a new session waits for a pager that died.
const revivalTime = 10 * time.Second

// createAt opens a session at the pager of a version. One that died is waited for, if
// somebody starts it again. Its answer may have got lost with it: a session of the
// same id is then the one that was asked for, and is opened anew.
func (s *pagerSet) createAt(ctx context.Context, version string, p Pager, req control.SessionRequest) (control.Session, error) {
	lost := false
	for begun := time.Now(); ; {
		session, err := p.CreateSession(ctx, req)
		var answer *problem.Problem
		switch {
		case lost && hasCode(err, sessionExists):
			c := client.New(pager.ControlSocket(s.dataDir, version))
			// Whether that succeeded, the next round shows.
			_, _ = c.CloseSession(ctx, req.ID)
			c.Close()
		case err == nil || errors.As(err, &answer):
			return session, err
		case !s.keeps(version):
			return session, err
		}
		if time.Since(begun) > revivalTime {
			return session, err
		}
		lost = true
		select {
		case <-ctx.Done():
			return session, err
		case <-time.After(closeInterval):
		}
	}
}

// guardInterval is the time between two looks at a session from which a VMM is
// loading.
const guardInterval = 250 * time.Millisecond

// errSessionOver is why a load is given up.
var errSessionOver = errors.New("its session is over, and nobody serves the memory of the VMM")

// guard ends the context of a load whose session is over: such a VMM would wait for
// ever. A pager that dies while it accepts the VMM's connection, or that nobody keeps
// descriptors for, takes the handshake with it; the next pager has a session without a
// VMM, which is over when the time for a connection is. Call stop when the load has
// ended. Without a session nothing is looked at.
func (m *Manager) guard(ctx context.Context, session string) (guarded context.Context, stop func()) {
	guarded, cancel := context.WithCancelCause(ctx)
	if session == "" {
		return guarded, func() { cancel(nil) }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(guardInterval)
		defer tick.Stop()
		// A VMM that its session has ended is given the time to say what it knows.
		for missed := 0; missed < 2; {
			select {
			case <-guarded.Done():
				return
			case <-tick.C:
			}
			_, there, err := fleet.Place(m.data.root, session)
			if there || err != nil {
				missed = 0
			} else {
				missed++
			}
		}
		cancel(errSessionOver)
	}()
	return guarded, func() {
		cancel(nil)
		<-done
	}
}
