package sdnotify

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asService makes the test binary print what it finds in the store.
const asService = "SDNOTIFY_TEST_AS_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) == "" {
		os.Exit(m.Run())
	}
	// The service manager knows the number of the process that it starts.
	getenv := func(name string) string {
		if name == "LISTEN_PID" {
			return fmt.Sprint(os.Getpid())
		}
		return os.Getenv(name)
	}
	fds, err := Stored(getenv)
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
	t.Cleanup(func() { n.Close() })
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
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{filepath.Join(dir, "notify"), "@faultline-test-" + filepath.Base(dir)} {
		conn, n := manager(t, name)
		for want, send := range map[string]func() error{
			"READY=1":                   n.Ready,
			"STOPPING=1":                n.Stopping,
			"STATUS=serves 3 guests":    func() error { return n.Status("serves\n3 guests") },
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
	if err := errors.Join(n.Ready(), n.Status("x"), n.Store("a", 0), n.Remove("a"), n.Stopping(), n.Close()); err != nil {
		t.Error(err)
	}
	if _, err := New(func(string) string { return "vsock:2:1" }); err == nil {
		t.Error("a socket of another family was accepted")
	}
	gone, err := New(func(string) string { return filepath.Join(t.TempDir(), "nobody") })
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := gone.Ready(); err == nil || !strings.Contains(err.Error(), "READY=1") {
		t.Errorf("a manager that is gone gave %v", err)
	}
}

// TestStored starts a process with descriptors 3 and 4, as a service manager does.
func TestStored(t *testing.T) {
	for _, test := range []struct{ fds, names, want string }{
		{"2", "a:b.c", "a=first;b.c=second;"},
		{"2", "", "unknown=first;unknown=second;"},
		{"1", "a", "a=first;"},
		{"0", "", ""},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asService+"=1", "LISTEN_FDS="+test.fds, "LISTEN_FDNAMES="+test.names)
		for _, text := range []string{"first", "second"} {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := w.WriteString(text); err != nil {
				t.Fatal(err)
			}
			w.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, r)
		}
		if output, err := cmd.CombinedOutput(); err != nil || string(output) != test.want {
			t.Errorf("LISTEN_FDS=%s LISTEN_FDNAMES=%s: found %q, %v; want %q", test.fds, test.names, output, err, test.want)
		}
	}
}

func TestParseListen(t *testing.T) {
	for _, test := range []struct {
		pid, fds, names string
		want            []FD
		fails           bool
	}{
		{"", "", "", nil, false},
		{"7", "", "", nil, false},
		{"8", "2", "a:b", nil, false}, // another process's
		{"7", "2", "a:b", []FD{{"a", 3}, {"b", 4}}, false},
		{"7", "1", "", []FD{{"unknown", 3}}, false},
		{"7", "2", "a", nil, true},
		{"7", "-1", "", nil, true},
		{"7", "99999999", "", nil, true},
		{"7", "x", "", nil, true},
		{"x", "1", "", nil, true},
	} {
		got, err := parseListen(test.pid, test.fds, test.names, 7)
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fails {
			t.Errorf("%+v: error %v, (-want +got):\n%s", test, err, diff)
		}
	}
}

func FuzzParseListen(f *testing.F) {
	f.Add("7", "2", "a:b")
	f.Add("7", "0", "")
	f.Add("8", "-1", ":")
	f.Fuzz(func(t *testing.T, pid, fds, names string) {
		got, err := parseListen(pid, fds, names, 7)
		if err != nil && got != nil {
			t.Fatal("descriptors and an error")
		}
		for i, fd := range got {
			if fd.FD != firstFD+i {
				t.Fatalf("descriptor %d is at place %d", fd.FD, i)
			}
		}
	})
}
