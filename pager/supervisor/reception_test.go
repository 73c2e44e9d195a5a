package supervisor

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/control"
)

// newcomer is a process that has not met its pager yet.
func newcomer(t *testing.T) *faulter.Process {
	t.Helper()
	vmm, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: guestPages * control.PageSize}}})
	if errors.Is(err, faulter.ErrRefused) {
		t.Skipf("no userfaultfd here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vmm.Kill() })
	return vmm
}

// TestCrashWithinAHandshake has the pager die with a VMM's handshake in its hands. The
// next one finds it where it was.
func TestCrashWithinAHandshake(t *testing.T) {
	t.Setenv(withoutGetfd, "1")
	for _, point := range []string{"handshake-read", "journal-written"} {
		t.Run(point, func(t *testing.T) {
			manifest, content := image(t)
			cfg := child(t)
			crashing := cfg.Options
			crashing.Env = []string{
				failpoint.Env + "=" + point + "=crash",
				"NOTIFY_SOCKET=" + NotifySocket(cfg.DataDir, pager.Version()),
			}
			first, err := Start(t.Context(), crashing)
			if err != nil {
				t.Fatal(err)
			}
			s := supervised(t, cfg)
			session, err := s.CreateSession(t.Context(), control.SessionRequest{ID: "a", Image: manifest})
			if err != nil {
				t.Fatal(err)
			}
			vmm := newcomer(t)
			if err := vmm.Handshake(session.Socket); err != nil {
				t.Fatal(err)
			}
			read := vmm.StartRead(0, control.PageSize)
			<-first.Exited()
			awaitSession(t, s.Client, "a", control.Serving)
			if _, err := read.Wait(); err != nil {
				t.Fatal(err)
			}
			wantPages(t, vmm, content, 0, guestPages)
			wantKept(t, s, "a")
			awaitWatching(t, s, awaitOther(t, s.Client, first.PID()).PID)
			replace(t, s)
			wantNoSocket(t, session)
			awaitSession(t, s.Client, "a", control.Serving)
			wantKept(t, s, "a")
		})
	}
}

// wantNoSocket waits until a session's socket is gone.
func wantNoSocket(t *testing.T, s control.Session) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := os.Lstat(s.Socket)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the session has its VMM, and its socket is still there: %v", err)
		}
	}
}

// TestConnectionOutlivesThePager lets VMMs connect while the pager is stopped and is
// killed then, and while there is none.
func TestConnectionOutlivesThePager(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	cfg.Restart = Restart{MinDelay: time.Second, MaxDelay: time.Second, Limit: -1}
	s := supervised(t, cfg)
	var sessions []control.Session
	for _, id := range []string{"a", "b", "c"} {
		session, err := s.CreateSession(t.Context(), control.SessionRequest{ID: id, Image: manifest})
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, session)
	}
	wantKept(t, s, "a", "b", "c")
	a, b := newcomer(t), newcomer(t)
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := a.Handshake(sessions[0].Socket); err != nil {
		t.Fatal(err)
	}
	kill(t, pid)
	pid = awaitOther(t, s.Client, pid).PID
	awaitWatching(t, s, pid)
	awaitSession(t, s.Client, "a", control.Serving)
	awaitSession(t, s.Client, "b", control.Waiting)
	kill(t, pid)
	// The second death is answered after a second.
	if err := b.Handshake(sessions[1].Socket); err != nil {
		t.Fatalf("there is no pager, and no socket: %v", err)
	}
	awaitOther(t, s.Client, pid)
	for i, vmm := range []*faulter.Process{a, b} {
		awaitSession(t, s.Client, sessions[i].ID, control.Serving)
		wantPages(t, vmm, content, 0, guestPages)
	}
	if _, err := s.CloseSession(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	wantKept(t, s, "a", "b")
	wantNoSocket(t, sessions[0]) // its VMM had come when the second pager started
	wantNoSocket(t, sessions[2])
}

// TestProbes has processes connect that have nothing to say, before and after a pager's
// death. They do not keep a VMM from its session.
func TestProbes(t *testing.T) {
	manifest, content := image(t)
	s := supervised(t, child(t))
	session, err := s.CreateSession(t.Context(), control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		// One ends before the pager dies, one with it, one later.
		probe(t, session.Socket).Close()
		pid := s.PID()
		second := probe(t, session.Socket)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		third := probe(t, session.Socket)
		second.Close()
		kill(t, pid)
		awaitWatching(t, s, awaitOther(t, s.Client, pid).PID)
		third.Close()
		awaitSession(t, s.Client, "a", control.Waiting)
	}
	wantKept(t, s, "a")
	vmm := newcomer(t)
	if err := vmm.Handshake(session.Socket); err != nil {
		t.Fatal(err)
	}
	awaitSession(t, s.Client, "a", control.Serving)
	wantPages(t, vmm, content, 0, guestPages)
	wantKept(t, s, "a")
}

func probe(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestSilentConnection is one that has said nothing when its pager dies, and says it to
// the next, piece by piece.
func TestSilentConnection(t *testing.T) {
	manifest, _ := image(t)
	s := supervised(t, child(t))
	session, err := s.CreateSession(t.Context(), control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	conn := probe(t, session.Socket)
	wantKept(t, s, "a", "a") // the listener and the connection
	replace(t, s)
	for _, piece := range []string{"[", "{}", "]"} {
		if _, err := io.WriteString(conn, piece); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, err := s.Session(t.Context(), "a")
		if err == nil && got.State == control.Failed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a handshake of nonsense gave %+v, %v", got, err)
		}
	}
	wantKept(t, s)
}

// TestKilledWhileStopping kills a pager that drains because it was sent a signal. Whoever
// starts it again wants it to serve.
func TestKilledWhileStopping(t *testing.T) {
	manifest, _ := image(t)
	s := supervised(t, child(t))
	guest(t, s.Client, "a", manifest)
	if err := syscall.Kill(s.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		h, err := s.Health(t.Context())
		if err == nil && h.Status == "draining" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a pager that is told to stop says %+v, %v", h, err)
		}
	}
	replace(t, s)
	guest(t, s.Client, "b", manifest)
}

// TestKilledWhileDraining kills a pager that drains. The next one goes on with that, and
// the one behind its end begins anew.
func TestKilledWhileDraining(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	s := supervised(t, cfg)
	vmm := guest(t, s.Client, "a", manifest)
	if _, err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	replace(t, s)
	awaitSession(t, s.Client, "a", control.Serving)
	if _, err := s.CreateSession(t.Context(), control.SessionRequest{ID: "b", Image: manifest}); !errors.Is(err, &problem.Problem{Code: "draining"}) {
		t.Errorf("a session of a pager that was draining when it was killed: %v", err)
	}
	wantPages(t, vmm, content, 0, guestPages)
	if _, err := s.CloseSession(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := outcome(t, s); err != nil {
		t.Error(err)
	}
	next := supervised(t, cfg)
	if h, err := next.Health(t.Context()); err != nil || h.Status != "ok" {
		t.Errorf("behind a drain there is %+v, %v", h, err)
	}
}
