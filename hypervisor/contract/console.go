package contract

import (
	"context"
	"errors"

	"github.com/faultline-vm/faultline/guest"
)

const guestPing = guest.CommandPing

func (m *machine) expectPong() {
	m.t.Helper()
	m.expect(guest.Pong)
}

// requireSilence looks for a while at a guest that must not say anything.
func (m *machine) requireSilence() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), glance)
	defer cancel()
	if line, err := m.console.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		m.t.Fatalf("a guest that cannot run said %q, error %v", line.Text, err)
	}
}
