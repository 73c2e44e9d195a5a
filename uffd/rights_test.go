package uffd_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// sockets returns the ends of a stream connection.
func sockets(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	var conns [2]*net.UnixConn
	for i, raw := range pair {
		file := os.NewFile(uintptr(raw), "socket")
		conn, err := net.FileConn(file)
		check(t, errors.Join(err, file.Close()))
		t.Cleanup(func() { _ = conn.Close() })
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

func TestSendAndReceive(t *testing.T) {
	a, b := sockets(t)
	s := startPages(t, 1)
	check(t, s.fd.Use(func(raw int) error { return uffd.SendFD(a, []byte("hello"), raw, raw) }))
	check(t, uffd.SendFD(a, []byte("bare")))
	check(t, a.CloseWrite())

	buf := make([]byte, 64)
	n, fds, err := uffd.ReceiveFDs(b, buf)
	check(t, err)
	if string(buf[:n]) != "hello" || len(fds) != 2 {
		t.Fatalf("received %q and %d descriptors; want \"hello\" and 2", buf[:n], len(fds))
	}
	for _, raw := range fds {
		flags, err := unix.FcntlInt(uintptr(raw), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %#x, %v; want FD_CLOEXEC", raw, flags, err)
		}
		fd, err := uffd.NewFD(raw)
		check(t, err)
		check(t, fd.Wake(s.all(0)))
		check(t, fd.Close())
	}
	n, fds, err = uffd.ReceiveFDs(b, buf)
	if err != nil || string(buf[:n]) != "bare" || len(fds) != 0 {
		t.Errorf("received %q and %d descriptors, %v; want \"bare\" and none", buf[:n], len(fds), err)
	}
	if _, _, err := uffd.ReceiveFDs(b, buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v; want %v", err, io.EOF)
	}
	if err := uffd.SendFD(a, nil, 0); err == nil {
		t.Error("descriptors were sent without a byte to carry them")
	}
}

// TestPeek looks at a message, from several holders of the socket, before it is taken.
func TestPeek(t *testing.T) {
	a, b := sockets(t)
	s := startPages(t, 1)
	check(t, s.fd.Use(func(raw int) error { return uffd.SendFD(a, []byte("hello"), raw) }))
	file, err := b.File()
	check(t, err)
	twin, err := net.FileConn(file)
	check(t, errors.Join(err, file.Close()))
	t.Cleanup(func() { _ = twin.Close() })
	buf := make([]byte, 64)
	for i, receive := range []func() (int, []int, error){
		func() (int, []int, error) { return uffd.PeekFDs(b, buf) },
		func() (int, []int, error) { return uffd.PeekFDs(twin.(*net.UnixConn), buf) },
		func() (int, []int, error) { return uffd.ReceiveFDs(b, buf) },
	} {
		n, fds, err := receive()
		check(t, err)
		if string(buf[:n]) != "hello" || len(fds) != 1 {
			t.Fatalf("%d: received %q and %d descriptors; want \"hello\" and 1", i, buf[:n], len(fds))
		}
		fd, err := uffd.NewFD(fds[0])
		check(t, err)
		check(t, fd.Wake(s.all(0)))
		check(t, fd.Close())
	}
	check(t, b.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if n, _, err := uffd.PeekFDs(b, buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes are left: %v", n, err)
	}
	check(t, a.Close())
	check(t, b.SetReadDeadline(time.Time{}))
	if _, _, err := uffd.PeekFDs(b, buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v; want %v", err, io.EOF)
	}
}

// TestSendLarge sends more than the socket takes at once.
func TestSendLarge(t *testing.T) {
	a, b := sockets(t)
	payload := bytes.Repeat([]byte("faultline"), 1<<17)
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(uffd.SendFD(a, payload, 0), a.Close()) }()
	var got []byte
	descriptors := 0
	for {
		buf := make([]byte, 1<<16)
		n, fds, err := uffd.ReceiveFDs(b, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		got = append(got, buf[:n]...)
		descriptors += len(fds)
		uffd.CloseAll(fds)
	}
	check(t, <-sent)
	if !bytes.Equal(got, payload) || descriptors != 1 {
		t.Errorf("received %d bytes and %d descriptors; want %d and 1", len(got), descriptors, len(payload))
	}
}

// TestRightsLost receives descriptors without room for them in the table.
func TestRightsLost(t *testing.T) {
	a, b := sockets(t)
	check(t, uffd.SendFD(a, []byte("x"), 0, 0, 0))
	var before unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	free, err := unix.Dup(0)
	check(t, err)
	check(t, unix.Close(free))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + 1, Max: before.Max}))
	_, fds, received := uffd.ReceiveFDs(b, make([]byte, 8))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
	if !errors.Is(received, uffd.ErrRightsLost) || len(fds) != 0 {
		t.Fatalf("ReceiveFDs = %v, %v; want %v", fds, received, uffd.ErrRightsLost)
	}
	again, err := unix.Dup(0)
	check(t, err)
	check(t, unix.Close(again))
	if again != free {
		t.Errorf("lowest free descriptor is %d; want %d: one that was received is left open", again, free)
	}
}
