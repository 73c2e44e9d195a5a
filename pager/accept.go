package pager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/uffd"
)

// handshake is what a VMM hands over.
type handshake struct {
	conn    *net.UnixConn // kept open: a VMM may take its end for the pager's; nil if adopted
	vmm     *pidfd.Process
	fd      *uffd.FD
	mapping *mapping
	pages   *pageJournal
	adopted bool // from a dead pager
}

// close gives back what the VMM handed over.
func (h *handshake) close() {
	h.fd.Close()
	if h.conn != nil {
		h.conn.Close()
	}
	if h.pages != nil {
		h.pages.close()
	}
	h.vmm.Close()
}

// errNothingSaid says that a connection ended before its first byte: a probe, or a
// Firecracker before 1.12 whose message was lost. The session waits on.
var errNothingSaid = errors.New("the connection ended before its first byte")

// awaitVMM accepts connections until one makes a handshake, or the time is up.
func (s *session) awaitVMM(ctx context.Context, listener *net.UnixListener) (*handshake, error) {
	deadline := time.Now().Add(s.timeout)
	if err := listener.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("session socket: %w", err)
	}
	for {
		// The deadline above may have overwritten that of an end in between.
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		conn, returned, err := s.next(listener)
		if cause := context.Cause(ctx); cause != nil {
			if err == nil {
				conn.Close()
			}
			return nil, cause
		}
		if err != nil {
			return nil, fmt.Errorf("no VMM connected to %s within %v; start the VMM after its session was created: %w", s.socket, s.timeout, err)
		}
		hs, err := s.shake(ctx, conn, returned, deadline)
		if err == nil {
			return hs, nil
		}
		conn.Close()
		if !errors.Is(err, errNothingSaid) {
			return nil, err
		}
		s.counters.rejected.Add(1)
	}
}

// shake makes the handshake on conn, which may be one that was returned by the service
// manager. When it fails, everything but conn has been given back; and a peer whose
// userfaultfd was received has been killed, since nobody will ever answer its faults.
func (s *session) shake(ctx context.Context, conn *net.UnixConn, returned bool, deadline time.Time) (*handshake, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.fail.Hit(pointAccepted); err != nil {
		return nil, err
	}
	if !returned {
		s.keepSocket(connectionName(s.id), conn)
	}
	vmm, err := pidfd.Connected(conn)
	if errors.Is(err, os.ErrProcessDone) {
		s.forgetSocket(connectionName(s.id))
		return nil, errNothingSaid
	}
	if err != nil {
		return nil, err
	}
	if err := s.journal.arrive(vmm); err != nil {
		vmm.Close()
		return nil, err
	}
	received, err := receive(conn, deadline)
	if errors.Is(err, errNothingSaid) {
		s.forgetSocket(connectionName(s.id))
		err = errors.Join(err, s.journal.notArrived())
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	hs := &handshake{conn: conn, vmm: vmm, fd: received.fd, mapping: received.mapping}
	if err == nil && received.mapping.end() > s.image.Size() {
		err = fmt.Errorf("the guest's memory needs %d bytes, the memory image %s has %d; restore with the image of the same capture",
			received.mapping.end(), s.imageArg, s.image.Size())
	}
	if err == nil {
		err = s.fail.Hit(pointHandshakeRead)
	}
	if err == nil {
		s.deposit(vmm, hs.fd)
		s.dropReturned()
		hs.pages, err = s.journal.attach(vmm, hs.mapping)
	}
	if err == nil {
		err = s.fail.Hit(pointJournalWritten)
	}
	if err == nil {
		received.take(conn)
		s.attached(vmm)
		return hs, nil
	}
	if hs.pages != nil {
		hs.pages.close()
	}
	if hs.fd != nil {
		err = fmt.Errorf("handshake of process %d: %w", vmm.PID(), err)
		if killErr := vmm.End(killTimeout); killErr != nil {
			err = fmt.Errorf("%w; and %w", err, killErr)
		}
		hs.fd.Close()
	}
	vmm.Close()
	return nil, err
}

// attached makes the VMM known to whoever asks.
func (s *session) attached(vmm *pidfd.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vmmPID, s.vmmStart = vmm.PID(), vmm.StartTime()
}

// received is the content of a handshake; fd may be set even where it failed.
type received struct {
	fd      *uffd.FD
	mapping *mapping
	peeked  int // bytes of it that are in the socket still
}

// take takes out of the socket what was only looked at. It holds a userfaultfd.
func (r received) take(conn *net.UnixConn) {
	if r.peeked == 0 {
		return
	}
	// It fails where the session is to end, and then the socket is closed.
	if _, fds, err := uffd.ReceiveFDs(conn, make([]byte, r.peeked)); err == nil {
		uffd.CloseAll(fds)
	}
}

// receive reads the JSON, in however many pieces it comes, and the one descriptor
// that travels with it. A handshake that is there as a whole, as every Firecracker sends
// it, stays in the socket: see received.take.
func receive(conn *net.UnixConn, deadline time.Time) (got received, err error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return got, err
	}
	buf := make([]byte, 4096)
	if got, whole := peek(conn, buf); whole {
		return got, conn.SetReadDeadline(time.Time{})
	}
	var payload []byte
	for {
		n, fds, err := uffd.ReceiveFDs(conn, buf)
		if len(fds) > 0 && (len(fds) > 1 || got.fd != nil) {
			uffd.CloseAll(fds)
			return got, errors.New("the handshake carries several descriptors, it must be one userfaultfd")
		}
		if len(fds) == 1 {
			if got.fd, err = uffd.NewFD(fds[0]); err != nil {
				return got, fmt.Errorf("the handshake's descriptor is no userfaultfd: %w", err)
			}
		}
		payload = append(payload, buf[:n]...)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return got, fmt.Errorf("the VMM connected, but sent no whole handshake in time (%d bytes so far): %w", len(payload), err)
		case n == 0 && len(payload) == 0 && got.fd == nil:
			return got, errNothingSaid
		case n == 0:
			return got, fmt.Errorf("the VMM closed the connection within its handshake, after %d bytes", len(payload))
		case len(payload) > maxHandshakeBytes:
			return got, fmt.Errorf("the handshake is longer than %d bytes", maxHandshakeBytes)
		}
		got.mapping, err = parseHandshake(payload)
		if errors.Is(err, errIncomplete) {
			continue
		}
		if err == nil && got.fd == nil {
			err = errors.New("the handshake carries no descriptor, it must carry the userfaultfd")
		}
		if err == nil {
			err = conn.SetReadDeadline(time.Time{})
		}
		return got, err
	}
}

// peek looks for a whole handshake. What is wrong with one shows when it is received.
func peek(conn *net.UnixConn, buf []byte) (got received, whole bool) {
	n, fds, err := uffd.PeekFDs(conn, buf)
	if err != nil {
		return got, false
	}
	if got.mapping, err = parseHandshake(buf[:n]); err != nil || len(fds) != 1 {
		uffd.CloseAll(fds)
		return received{}, false
	}
	got.peeked = n
	got.fd, err = uffd.NewFD(fds[0])
	return got, err == nil
}
