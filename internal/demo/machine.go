package demo

import (
	"context"
	"errors"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
)

// machine is an instance as package talk wants it.
type machine struct {
	manager *instance.Manager
	id      string
}

func (m machine) Console(offset int64) (*hypervisor.Console, error) {
	return m.manager.Console(m.id, offset)
}

// Send does not wait for the guest, and needs no context.
func (m machine) Send(input []byte) error {
	return m.manager.Send(context.Background(), m.id, input)
}

// verdictTime bounds the wait for what the manager says of a VMM that has ended. It
// asks the pager too, which may be dead.
const verdictTime = 5 * time.Second

// State is asked when the VMM has ended. It waits until the manager knows why.
func (m machine) State(ctx context.Context) (hypervisor.State, error) {
	ctx, cancel := context.WithTimeout(ctx, verdictTime)
	defer cancel()
	now, err := m.manager.Wait(ctx, m.id, instance.Failed, instance.Stopped)
	if err == nil && now.Reason != "" {
		err = errors.New(now.Reason)
	}
	return hypervisor.State(now.State), err
}
