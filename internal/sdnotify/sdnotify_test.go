package sdnotify

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/internal/shortdir"
)

// asService makes the test binary print what it finds in the store.
const asService = "SDNOTIFY_TEST_AS_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) == "" {
		os.Exit(m.Run())
	}
	fds, err := Stored(os.Getenv)
	for _, fd := range fds {
		text, readErr := io.ReadAll(os.NewFile(uintptr(fd.FD), fd.Name))
		fmt.Printf("%s=%s;", fd.Name, text)
		err = errors.Join(err, readErr)
	}
	if err != nil {
		fmt.Print("error: ", err)
	}
	os.Exit(0)
}

// manager is the receiving end of a service manager.
func manager(t *testing.T, name string) (*net.UnixConn, *Notifier) {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n, err := New(func(key string) string { return map[string]string{"NOTIFY_SOCKET": name}[key] })
	if err != nil {
		t.Fatal(err)
	}
	return conn, n
}

func receive(t *testing.T, conn *net.UnixConn) (string, []int) {
	t.Helper()
	state, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := conn.ReadMsgUnix(state, oob)
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		rights, err := syscall.ParseUnixRights(&m)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, rights...)
	}
	return string(state[:n]), fds
}

func TestNotifications(t *testing.T) {
	dir := shortdir.Make(t)
	for _, name := range []string{filepath.Join(dir, "notify"), "@faultline-test-" + filepath.Base(dir)} {
		conn, n := manager(t, name)
		for want, send := range map[string]func() error{
			"READY=1":                   n.Ready,
			"STOPPING=1":                n.Stopping,
			"WATCHDOG=1":                n.Alive,
			"FDSTOREREMOVE=1\nFDNAME=a": func() error { return n.Remove("a") },
		} {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			if got, fds := receive(t, conn); got != want || len(fds) > 0 {
				t.Errorf("sent %q with descriptors %v, want %q", got, fds, want)
			}
		}
	}
}

func TestStore(t *testing.T) {
	conn, n := manager(t, "@faultline-test-store-"+fmt.Sprint(os.Getpid()))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := n.Store("session.fork-1", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	state, fds := receive(t, conn)
	if state != "FDSTORE=1\nFDPOLL=0\nFDNAME=session.fork-1" || len(fds) != 1 {
		t.Fatalf("stored %q with %d descriptors", state, len(fds))
	}
	stored := os.NewFile(uintptr(fds[0]), "stored")
	if _, err := stored.WriteString("kept"); err != nil {
		t.Errorf("what was stored is not the pipe: %v", err)
	}
	stored.Close()
	if got, err := io.ReadAll(r); string(got) != "kept" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestBadNames(t *testing.T) {
	_, n := manager(t, "@faultline-test-names-"+fmt.Sprint(os.Getpid()))
	for _, name := range []string{"", "a:b", "a b", "a\nREADY=1", "ä", strings.Repeat("x", 256)} {
		if err := n.Store(name, 0); err == nil {
			t.Errorf("Store accepted the name %q", name)
		}
		if err := n.Remove(name); err == nil {
			t.Errorf("Remove accepted the name %q", name)
		}
	}
	if err := n.Store("empty"); err == nil {
		t.Error("Store accepted no descriptor")
	}
}

func TestWithoutManager(t *testing.T) {
	n, err := New(func(string) string { return "" })
	if n != nil || err != nil {
		t.Fatalf("New without a manager gave %v, %v", n, err)
	}
	if err := errors.Join(n.Ready(), n.Store("a", 0), n.Remove("a"), n.Stopping(), n.Alive(), n.Barrier()); err != nil {
		t.Error(err)
	}
	if _, err := New(func(string) string { return "vsock:2:1" }); err == nil {
		t.Error("a socket of another family was accepted")
	}
	gone, err := New(func(string) string { return filepath.Join(t.TempDir(), "nobody") })
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Ready(); err == nil || !strings.Contains(err.Error(), "READY=1") {
		t.Errorf("a manager that is gone gave %v", err)
	}
}

// TestFullQueue lets a manager that reads nothing read at last.
func TestFullQueue(t *testing.T) {
	conn, n := manager(t, "@faultline-test-full-"+fmt.Sprint(os.Getpid()))
	const messages = 100 // net.unix.max_dgram_qlen is 10 on most hosts, and 512 with systemd
	sent := make(chan error, messages)
	for range messages {
		go func() { sent <- n.Alive() }()
	}
	for range messages {
		receive(t, conn)
	}
	for range messages {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

func TestBarrier(t *testing.T) {
	conn, n := manager(t, "@faultline-test-barrier-"+fmt.Sprint(os.Getpid()))
	passed := make(chan error, 1)
	go func() { passed <- n.Barrier() }()
	state, fds := receive(t, conn)
	if state != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("received %q with %d descriptors", state, len(fds))
	}
	select {
	case err := <-passed:
		t.Errorf("the barrier was passed before the manager said so: %v", err)
	default:
	}
	syscall.Close(fds[0])
	if err := <-passed; err != nil {
		t.Error(err)
	}
}
