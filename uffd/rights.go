package uffd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// maxRights is SCM_MAX_FD: the kernel passes no more descriptors in one message.
const maxRights = 253

// ErrRightsLost is returned by [ReceiveFDs] when the kernel dropped descriptors,
// because this process has too many open.
var ErrRightsLost = errors.New("descriptors were lost on receipt; raise the limit of open files")

// SendFD sends payload with the descriptors attached, in one sendmsg unless the
// socket takes only a part of payload; then the rest follows. payload must not be
// empty: a stream carries no descriptors without a byte. The descriptors remain
// the caller's.
func SendFD(conn *net.UnixConn, payload []byte, fds ...int) error {
	if len(payload) == 0 {
		return errors.New("send descriptors: payload is empty; send at least one byte")
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(payload, rights, nil)
	if err == nil && n < len(payload) {
		_, err = conn.Write(payload[n:])
	}
	if err != nil {
		return fmt.Errorf("send %d descriptors: %w", len(fds), err)
	}
	return nil
}

// ReceiveFDs does one recvmsg into buf and returns the number of bytes and the
// descriptors that came with them, close-on-exec, which the caller owns. Bytes
// sent before those that carried the descriptors may precede them, bytes sent
// after do not follow them. The error is io.EOF when the peer has closed; on any
// error no descriptor is left open.
func ReceiveFDs(conn *net.UnixConn, buf []byte) (n int, fds []int, err error) {
	return receive(conn, buf, 0)
}

// PeekFDs is like [ReceiveFDs], but leaves what it returns in the socket: whoever
// receives next gets the same bytes and descriptors of his own, in another process too.
func PeekFDs(conn *net.UnixConn, buf []byte) (n int, fds []int, err error) {
	return receive(conn, buf, unix.MSG_PEEK)
}

func receive(conn *net.UnixConn, buf []byte, how int) (n int, fds []int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	control := make([]byte, unix.CmsgSpace(4*maxRights))
	var used, flags int
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			n, used, flags, _, err = unix.Recvmsg(int(fd), buf, control, how|unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		err = waitErr
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	fds, err = parseRights(control[:used])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = ErrRightsLost
	}
	if err != nil {
		CloseAll(fds)
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	if n == 0 && len(buf) > 0 {
		CloseAll(fds)
		return 0, nil, io.EOF
	}
	return n, fds, nil
}

// CloseAll closes descriptors as [ReceiveFDs] returns them. There is nothing
// that a caller could do about a failure.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// parseRights collects the descriptors of all control messages. A message that is
// cut short ends the list.
func parseRights(control []byte) ([]int, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("malformed control message: %w", err)
	}
	var fds []int
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		for data := m.Data; len(data) >= 4; data = data[4:] {
			fds = append(fds, int(int32(binary.NativeEndian.Uint32(data))))
		}
	}
	return fds, nil
}
