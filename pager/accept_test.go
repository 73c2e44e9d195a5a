package pager

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// TestHandshakeIsLookedAtThenTaken receives a handshake twice, as a pager and its
// successor do, and takes it out of the socket once.
func TestHandshakeIsLookedAtThenTaken(t *testing.T) {
	fd, _, err := uffd.OpenBest()
	if err != nil {
		t.Skipf("no userfaultfd here: %v", err)
	}
	defer fd.Close()
	vmm, session := connected(t)
	const text = `[{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":4096}]`
	if err := fd.Use(func(raw int) error { return uffd.SendFD(vmm, []byte(text), raw) }); err != nil {
		t.Fatal(err)
	}
	var got received
	for range 2 {
		if got, err = receive(session, time.Now().Add(patience)); err != nil || got.mapping.size() != 4096 {
			t.Fatalf("received %+v, %v", got, err)
		}
		got.fd.Close()
	}
	got.take(session)
	if err := session.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := uffd.PeekFDs(session, make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes are left in the socket: %v", n, err)
	}
}

// connected returns the ends of a connection.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends []*net.UnixConn
	for _, raw := range pair {
		file := os.NewFile(uintptr(raw), "end")
		ends, err = appendSocket(ends, file, net.FileConn)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return ends[0], ends[1]
}
