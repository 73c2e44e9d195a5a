package pager

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// reception is where a session waits for its VMM. The service manager keeps its sockets,
// so that no load fails because a pager died in the middle of it:
//
//   - the listener: VMMs connect to it, and their handshakes lie in it, while there is no
//     pager;
//   - the connection that was accepted. Its handshake is only looked at until the journal
//     has it, so that the next pager finds it as if nobody had been there.
//
// Neither is of use when the session has its VMM. Without a service manager the next
// pager listens anew, and what had connected is lost; see arrival.go. So is, with one, a
// VMM whose pager dies between accept and deposit, which takes microseconds, or a
// scheduler's turn where many VMMs arrive at once.
//
// It belongs to whoever makes the session, and then to the goroutine that runs its life.
type reception struct {
	// What came back from the manager, until it is used.
	listener *net.UnixListener
	arrived  []*net.UnixConn
	// names are those of the deposits.
	names []string
}

func listenerName(id string) string   { return "listener." + id }
func connectionName(id string) string { return "connection." + id }

// using makes a socket lend its descriptor in the way of the method Use of uffd.FD.
func using(socket syscall.Conn) func(func(fd int) error) error {
	return func(fn func(fd int) error) error {
		raw, err := socket.SyscallConn()
		if err != nil {
			return err
		}
		if closed := raw.Control(func(fd uintptr) { err = fn(int(fd)) }); closed != nil {
			return closed
		}
		return err
	}
}

// keepSocket has the service manager keep a socket.
func (s *session) keepSocket(name string, socket syscall.Conn) {
	s.deposits.put(name, using(socket))
	if !slices.Contains(s.reception.names, name) {
		s.reception.names = append(s.reception.names, name)
	}
}

// forgetSocket has the service manager drop a socket.
func (s *session) forgetSocket(name string) {
	s.deposits.remove(name)
	s.reception.names = slices.DeleteFunc(s.reception.names, func(kept string) bool { return kept == name })
}

// forgetSockets has the service manager drop them all.
func (s *session) forgetSockets() {
	for _, name := range slices.Clone(s.reception.names) {
		s.forgetSocket(name)
	}
}

// listen makes the session's socket, or goes on with the one that came back.
func (s *session) listen() (*net.UnixListener, error) {
	if l := s.reception.listener; l != nil {
		s.reception.listener = nil
		return l, nil
	}
	l, err := listenPrivate(s.socket)
	if err == nil {
		s.keepSocket(listenerName(s.id), l)
	}
	return l, err
}

// next returns a connection that came back, or else the next one that is made. Returned
// tells which.
func (s *session) next(listener *net.UnixListener) (conn *net.UnixConn, returned bool, err error) {
	if came := s.reception.arrived; len(came) > 0 {
		s.reception.arrived = came[1:]
		return came[0], true, nil
	}
	conn, err = listener.AcceptUnix()
	return conn, false, err
}

// reclaim makes the sockets that came back of a session that session's. If several
// listeners did, because a removal got lost, nobody knows to which of them the socket's
// name leads, and none is of use.
func (s *session) reclaim() {
	var listeners []*net.UnixListener
	for _, name := range []string{listenerName(s.id), connectionName(s.id)} {
		fds := s.deposits.claim(name)
		if len(fds) > 0 {
			s.reception.names = append(s.reception.names, name)
		}
		for _, raw := range fds {
			file := os.NewFile(uintptr(raw), name)
			var err error
			if listens, _ := unix.GetsockoptInt(raw, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); listens != 0 {
				listeners, err = appendSocket(listeners, file, net.FileListener)
			} else {
				s.reception.arrived, err = appendSocket(s.reception.arrived, file, net.FileConn)
			}
			if err = errors.Join(err, file.Close()); err != nil {
				s.log.Warn("the service manager returned something else than a socket of a session", "name", name, "error", err)
			}
		}
	}
	if len(listeners) == 1 && listeners[0].Addr().String() == s.socket {
		s.reception.listener = listeners[0]
		s.reception.listener.SetUnlinkOnClose(true)
		return
	}
	for _, l := range listeners {
		l.Close()
	}
}

// appendSocket makes a unix socket of a file, which stays the caller's.
func appendSocket[S, Any io.Closer](to []S, file *os.File, open func(*os.File) (Any, error)) ([]S, error) {
	opened, err := open(file)
	if err != nil {
		return to, err
	}
	socket, ok := any(opened).(S)
	if !ok {
		return to, errors.Join(fmt.Errorf("%T", opened), opened.Close())
	}
	return append(to, socket), nil
}

// cameBack reports whether the connection of a process is among those that came back.
func (r *reception) cameBack(pid int) bool {
	return slices.ContainsFunc(r.arrived, func(conn *net.UnixConn) bool {
		is := false
		_ = using(conn)(func(fd int) error {
			cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
			is = err == nil && int(cred.Pid) == pid
			return err
		})
		return is
	})
}

// close gives back what came back and was not used.
func (r *reception) close() {
	if r.listener != nil {
		r.listener.Close()
	}
	for _, conn := range r.arrived {
		conn.Close()
	}
	*r = reception{}
}
