// Package sdnotify talks to systemd as a service does: it says that the service is
// ready, and keeps file descriptors in the service manager's store, from where the
// next process of the unit gets them. The protocol is that of sd_notify(3),
// sd_pid_notify_with_fds(3) and sd_listen_fds_with_names(3).
//
// A Notifier owns one unconnected socket. Descriptors that are stored are
// duplicated: the caller keeps its own. Descriptors that [Stored] returns belong
// to the caller. Nothing here reads or changes the environment of the process.
//
// Any number of goroutines may use a Notifier.
package sdnotify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// MaxName is the longest name of a stored descriptor, in bytes.
const MaxName = 255

// firstFD is SD_LISTEN_FDS_START.
const firstFD = 3

// Notifier sends to the service manager.
type Notifier struct {
	conn *net.UnixConn
	addr *net.UnixAddr
}

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
	// Not connected: the manager may be executed anew and make its socket again.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("socket to the service manager: %w", err)
	}
	return &Notifier{conn: conn, addr: &net.UnixAddr{Name: path, Net: "unixgram"}}, nil
}

// Close gives the socket back. What is stored stays.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

// Ready says that the service serves. A unit with Type=notify is started then.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that the service is about to end.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Status tells people, in one line, what the service does.
func (n *Notifier) Status(text string) error {
	return n.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Store gives descriptors to the service manager, under a name of 1 to MaxName
// printable ASCII characters without a colon. The unit needs
// FileDescriptorStoreMax=; what exceeds it is closed without an error.
//
// FDPOLL=0 (since systemd 246) makes the manager keep a descriptor that polls as
// an error or a hang-up. It would close any other at once, and a userfaultfd that
// is not O_NONBLOCK polls as an error (Linux, fs/userfaultfd.c).
func (n *Notifier) Store(name string, fds ...int) error {
	if err := checkName(name); err != nil {
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
	if err := checkName(name); err != nil {
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
	if _, _, err := n.conn.WriteMsgUnix([]byte(state), rights, n.addr); err != nil {
		first, _, _ := strings.Cut(state, "\n")
		return fmt.Errorf("telling the service manager %s: %w", first, err)
	}
	return nil
}

func checkName(name string) error {
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

// FD is a descriptor that came back from the store.
type FD struct {
	Name string // as given to Store
	FD   int    // close-on-exec; the receiver owns it
}

// Stored returns the descriptors that the service manager passed to this process,
// by LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES. Getenv is os.Getenv. Call it once,
// early: a second call would give the same descriptors another owner. None were
// passed when the variables are missing or meant for another process.
func Stored(getenv func(string) string) ([]FD, error) {
	fds, err := parseListen(getenv("LISTEN_PID"), getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), os.Getpid())
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, fd := range fds {
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd.FD), syscall.F_GETFD, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("descriptor %d (%s) that LISTEN_FDS announces: %w", fd.FD, fd.Name, errno))
			continue
		}
		syscall.CloseOnExec(fd.FD)
	}
	return fds, errors.Join(errs...)
}

// maxListen bounds what LISTEN_FDS can make this process believe. It is the limit
// of descriptors per process that Linux allows without being told otherwise
// (fs.nr_open).
const maxListen = 1 << 20

// parseListen decodes the variables of sd_listen_fds_with_names(3).
func parseListen(listenPID, listenFDs, listenNames string, pid int) ([]FD, error) {
	if listenPID == "" || listenFDs == "" {
		return nil, nil
	}
	forPID, err := strconv.Atoi(listenPID)
	if err != nil || forPID <= 0 {
		return nil, fmt.Errorf("LISTEN_PID %q is no process number", listenPID)
	}
	if forPID != pid {
		return nil, nil
	}
	n, err := strconv.Atoi(listenFDs)
	if err != nil || n < 0 || n > maxListen {
		return nil, fmt.Errorf("LISTEN_FDS %q is no number of descriptors", listenFDs)
	}
	names := strings.Split(listenNames, ":")
	if listenNames == "" {
		names = nil
	}
	if n == 0 {
		return nil, nil
	}
	if len(names) != 0 && len(names) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for %d descriptors", len(names), n)
	}
	fds := make([]FD, n)
	for i := range fds {
		fds[i] = FD{Name: "unknown", FD: firstFD + i}
		if names != nil {
			fds[i].Name = names[i]
		}
	}
	return fds, nil
}
