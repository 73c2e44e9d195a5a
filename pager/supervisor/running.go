package supervisor

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/pager/client"
)

// running is a pager that answers.
type running struct {
	pid int
	// exited is closed when the process has ended.
	exited <-chan struct{}
	// release ends the watch and leaves the process alone.
	release func()
	// signal sends a signal to the process, and to no other that got its number.
	signal func(syscall.Signal) error
	// beats is how many signs of life had been heard when it was started or found.
	beats int64
	// child is the process if this supervisor started it; nil for one that it found.
	child *Process
}

// askTimeout bounds one question to a pager. A pager that is stopped by a signal
// accepts connections and never answers.
const askTimeout = time.Second

// find returns the pager that answers on c, held by a pidfd. The error says that
// nobody answers, or that the process cannot be held.
func find(ctx context.Context, c *client.Client) (*running, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := c.Health(ctx)
	if err != nil {
		return nil, err
	}
	process, err := pidfd.Open(h.PID)
	if err != nil {
		return nil, fmt.Errorf("the pager that answers: %w; run the supervisor in the pager's pid namespace", err)
	}
	// Its number could have gone to another process in between: not if it still
	// answers now.
	again, err := c.Health(ctx)
	if err == nil && again.PID != h.PID {
		err = fmt.Errorf("pager %d was followed by pager %d while it was looked at", h.PID, again.PID)
	}
	if err != nil {
		process.Close()
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		defer process.Close()
		if process.Wait() {
			close(exited)
		}
	}()
	return &running{
		pid: h.PID, exited: exited,
		// The waiting goroutine closes it.
		release: process.StopWaiting,
		signal:  process.Signal,
	}, nil
}
