// Package sdnotify talks to a service manager as a service does: it says that the
// service is ready and alive, and keeps file descriptors in the manager's store, from
// where the next process of the service gets them. The protocol is that of
// sd_notify(3), sd_pid_notify_with_fds(3), sd_watchdog_enabled(3) and
// sd_listen_fds_with_names(3). The manager is systemd, or a program that speaks like
// it; what such a program has to say, [Variables] tells.
//
// Descriptors that are stored are duplicated: the caller keeps its own. Descriptors
// that [Stored] returns belong to the caller. Nothing here reads or changes the
// environment of the process.
//
// Any number of goroutines may use a Notifier.
package sdnotify

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// MaxName is the longest name of a stored descriptor, in bytes.
const MaxName = 255

// patience bounds the sending of a message to a manager that does not read, whose
// queue is full (sysctl net.unix.max_dgram_qlen).
const patience = time.Second

// Notifier sends to the service manager. It holds no resources.
type Notifier struct{ addr *net.UnixAddr }

// New returns a notifier for the service manager that started this process. Getenv
// is os.Getenv. Without a service manager (no NOTIFY_SOCKET) it returns nil, nil;
// the methods of a nil Notifier do nothing.
func New(getenv func(string) string) (*Notifier, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	if path[0] != '/' && path[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET %q is neither a path nor an abstract socket", path)
	}
	return &Notifier{addr: &net.UnixAddr{Name: path, Net: "unixgram"}}, nil
}

// Ready says that the service serves. A unit with Type=notify is started then.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that the service is about to end.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Alive says that the service works. A manager that asks for it (see [Watchdog]) ends
// a service that has not said so for too long.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1") }

// Barrier returns when the manager has dealt with all messages that were sent before.
// It needs systemd 246.
func (n *Notifier) Barrier() error {
	if n == nil {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = n.send("BARRIER=1", int(w.Fd()))
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	// The manager closes its copy of the writing end.
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the service manager does not answer: %w", err)
	}
	return nil
}

// Store gives descriptors to the service manager, under a name of 1 to MaxName
// printable ASCII characters without a colon. The unit needs
// FileDescriptorStoreMax=; what exceeds it is closed without an error.
//
// FDPOLL=0 (since systemd 246) makes the manager keep a descriptor that polls as
// an error or a hang-up. It would close any other at once, and a userfaultfd that
// is not O_NONBLOCK polls as an error (Linux, fs/userfaultfd.c).
func (n *Notifier) Store(name string, fds ...int) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if len(fds) == 0 {
		return fmt.Errorf("nothing to store as %q", name)
	}
	return n.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fds...)
}

// Remove makes the service manager close every descriptor of that name. It needs
// systemd 236.
func (n *Notifier) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return n.send("FDSTOREREMOVE=1\nFDNAME=" + name)
}

func (n *Notifier) send(state string, fds ...int) error {
	if n == nil {
		return nil
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	first, _, _ := strings.Cut(state, "\n")
	// A connection for each message: the manager may be executed anew and make its
	// socket again, and only on a connected socket is the end of a full queue noticed
	// (Linux, net/unix/af_unix.c, unix_dgram_poll).
	conn, err := net.DialUnix("unixgram", nil, n.addr)
	if err == nil {
		defer conn.Close()
		err = conn.SetWriteDeadline(time.Now().Add(patience))
	}
	if err == nil {
		err = sendmsg(conn, []byte(state), rights)
	}
	if err != nil {
		return fmt.Errorf("telling the service manager %s: %w", first, err)
	}
	return nil
}

// sendmsg is what WriteMsgUnix refuses to do on a connected datagram socket.
func sendmsg(conn *net.UnixConn, state, rights []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	waitErr := raw.Write(func(fd uintptr) bool {
		_, err = syscall.SendmsgN(int(fd), state, rights, nil, syscall.MSG_NOSIGNAL)
		return !errors.Is(err, syscall.EAGAIN)
	})
	return errors.Join(waitErr, err)
}

// CheckName reports what is wrong with a name for stored descriptors, if anything is.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("name of %d bytes for a stored descriptor; use 1 to %d", len(name), MaxName)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == ':' {
			return fmt.Errorf("name %q for a stored descriptor; use printable ASCII without spaces and colons", name)
		}
	}
	return nil
}
