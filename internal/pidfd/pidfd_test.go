package pidfd

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/shortdir"
)

// patience bounds what hangs.
const patience = 30 * time.Second

// sleeper starts a process that only a signal ends.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Skipf("no program sleep: %v; install coreutils", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func open(t *testing.T, pid int) *Process {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestWaitAndEnd(t *testing.T) {
	cmd := sleeper(t)
	p := open(t, cmd.Process.Pid)
	waited := make(chan bool, 1)
	wait := func() { waited <- p.Wait() }
	outcome := func() bool {
		t.Helper()
		select {
		case ended := <-waited:
			return ended
		case <-time.After(patience):
			t.Fatal("the wait goes on")
			return false
		}
	}
	go wait()
	p.StopWaiting()
	if outcome() {
		t.Error("a wait that was stopped says that the process has ended")
	}
	if err := p.Signal(0); err != nil {
		t.Errorf("signal 0 for a process that runs: %v", err)
	}
	for range 2 { // the second time it is a zombie, which has ended
		if err := p.End(patience); err != nil {
			t.Error(err)
		}
	}
	go wait()
	if !outcome() {
		t.Error("a wait for a process that has ended says that it has not")
	}
	if state, err := cmd.Process.Wait(); err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v, %v", state, err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal for a process that is gone: %v", err)
	}
	if err := p.End(patience); err != nil {
		t.Errorf("ending a process that is gone: %v", err)
	}
	if _, err := Open(p.PID()); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("opening a process that is gone: %v", err)
	}
	p.Close()
	if err := p.Signal(0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a signal after Close: %v", err)
	}
}

func TestCloseEndsAWait(t *testing.T) {
	p := open(t, sleeper(t).Process.Pid)
	waited := make(chan bool, 1)
	go func() { waited <- p.Wait() }()
	p.Close()
	select {
	case ended := <-waited:
		if ended {
			t.Error("a closed wait says that the process has ended")
		}
	case <-time.After(patience):
		t.Fatal("the wait goes on")
	}
}

func TestReopen(t *testing.T) {
	p := open(t, sleeper(t).Process.Pid)
	again, err := Reopen(p.PID(), p.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := Reopen(p.PID(), p.StartTime()+1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process of another start time gave %v", err)
	}
	if _, err := Take(1<<30, -1); err == nil {
		t.Error("a descriptor that is none was taken")
	}
}

func TestConnected(t *testing.T) {
	dir := shortdir.Make(t)
	name := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.DialUnix("unix", nil, name)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := Connected(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	self := open(t, os.Getpid())
	if p.PID() != self.PID() || p.StartTime() != self.StartTime() {
		t.Errorf("process %d of %d connected, and it is %d of %d", self.PID(), self.StartTime(), p.PID(), p.StartTime())
	}
}

// TestConnectedAndGone looks for a process that has connected and ended before anybody
// looked.
func TestConnectedAndGone(t *testing.T) {
	if path := os.Getenv(connectTo); path != "" {
		if _, err := net.Dial("unix", path); err != nil {
			t.Fatal(err)
		}
		return
	}
	path := filepath.Join(shortdir.Make(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), connectTo+"="+path)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p, err := Connected(conn); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("found %+v, %v", p, err)
	}
}

// connectTo has the test binary connect to a socket, and end.
const connectTo = "PIDFD_TEST_CONNECT_TO"
