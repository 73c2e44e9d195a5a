package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/pager/client"
)

// running is a pager that answers.
type running struct {
	pid int
	// exited is closed when the process has ended.
	exited <-chan struct{}
	// release ends the watch and leaves the process alone.
	release func()
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
	// PIDFD_NONBLOCK since Linux 5.10. It puts the pidfd into Go's poller.
	fd, err := unix.PidfdOpen(h.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("opening the pager's process %d: %w; run the supervisor in the pager's pid namespace", h.PID, err)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of pager %d", h.PID))
	// Its number could have gone to another process in between: not if it still
	// answers now.
	again, err := c.Health(ctx)
	if err == nil && again.PID != h.PID {
		err = fmt.Errorf("pager %d was followed by pager %d while it was looked at", h.PID, again.PID)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	exited := make(chan struct{})
	go func() {
		defer file.Close()
		if awaitEnd(file) {
			close(exited)
		}
	}()
	return &running{
		pid: h.PID, exited: exited,
		// The waiting goroutine closes the file.
		release: func() { _ = file.SetReadDeadline(time.Unix(1, 0)) },
	}, nil
}

// awaitEnd returns when the process of a pidfd has ended (true), or when the read
// deadline has passed (false).
func awaitEnd(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = err == nil && n == 1
		return ended
	})
	return err == nil && ended
}
