package systemd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/internal/sdnotify"
)

// kept is what the keeper leaves in the store, and where it says what it found.
const (
	keptName = "session.kept"
	kept     = "what the dead process knew"
)

var keeperState = filepath.Join(dataDir, "keeper")

// keeper is a service. Its first process stores a pipe that holds a text, and whose
// writer is gone, so that it polls as hung up. Its next process reads the pipe. Each
// says in a file what it did.
func keeper() int {
	if err := keep(); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	time.Sleep(time.Hour)
	return 0
}

func keep() error {
	notifier, err := sdnotify.New(os.Getenv)
	if err != nil {
		return err
	}
	fds, err := sdnotify.Stored(os.Getenv)
	if err != nil {
		return err
	}
	if len(fds) == 0 {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		_, err = w.WriteString(kept)
		if err := errors.Join(err, w.Close(), notifier.Store(keptName, int(r.Fd())), r.Close()); err != nil {
			return err
		}
		return errors.Join(os.WriteFile(keeperState, []byte("stored"), 0o600), notifier.Ready())
	}
	text, err := io.ReadAll(os.NewFile(uintptr(fds[0].FD), fds[0].Name))
	if err != nil {
		return err
	}
	if err := notifier.Remove(keptName); err != nil {
		return err
	}
	found := fmt.Appendf(nil, "%d %s: %s", len(fds), fds[0].Name, text)
	return errors.Join(os.WriteFile(keeperState, found, 0o600), notifier.Ready())
}
