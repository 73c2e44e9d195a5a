package lockfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/procstat"
)

// takePath makes the test binary take a lock, say so, and wait for its end.
const takePath = "LOCKFILE_TEST_TAKE"

func TestMain(m *testing.M) {
	path := os.Getenv(takePath)
	if path == "" {
		os.Exit(m.Run())
	}
	if _, err := Take(path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("taken")
	select {}
}

// other is a process that holds the lock.
func other(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), takePath+"="+path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var said string
	if _, err := fmt.Fscanln(out, &said); err != nil || said != "taken" {
		t.Fatalf("%q, %v", said, err)
	}
	return cmd
}

func take(t *testing.T, path string) *Lock {
	t.Helper()
	lock, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func wantHeld(t *testing.T, path string, pid int) {
	t.Helper()
	began := time.Now()
	_, err := Take(path)
	held := new(HeldError)
	if !errors.As(err, &held) || held.PID != pid || held.Path != path {
		t.Errorf("taking it gave %v; want that process %d holds %s", err, pid, path)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("being refused took %v", took)
	}
}

func TestTakeAndRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := take(t, path)
	wantHeld(t, path, os.Getpid())
	pid, started, err := Holder(path)
	self, statErr := procstat.Read(os.Getpid())
	if err != nil || statErr != nil || pid != os.Getpid() || started != self.StartTime {
		t.Errorf("its holder is %d of %d, %v, %v", pid, started, err, statErr)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("giving it back twice: %v", err)
	}
	if pid, _, err := Holder(path); err == nil {
		t.Errorf("nobody holds it, and process %d does", pid)
	}
	again := take(t, path)
	if err := again.Release(); err != nil {
		t.Error(err)
	}
}

func TestOtherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, []byte("a line that is longer than what is written over it\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := other(t, path)
	wantHeld(t, path, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if pid, _, err := Holder(path); err != nil || pid != cmd.Process.Pid {
		t.Errorf("the last holder was %d, %v", pid, err)
	}
	if err := take(t, path).Release(); err != nil {
		t.Error(err)
	}
}

// TestLockOfADeadProcess takes a lock whose holder has ended, and that a child of it
// still has.
func TestLockOfADeadProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := take(t, path)
	child := exec.Command("sleep", "0.2")
	child.ExtraFiles = []*os.File{lock.file}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	next := take(t, path)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the lock was taken after %v, when the child had it still", took)
	}
	if err := errors.Join(child.Wait(), next.Release()); err != nil {
		t.Error(err)
	}
}

func TestNoPlaceForALock(t *testing.T) {
	if _, err := Take(filepath.Join(t.TempDir(), "missing", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lock in a directory that is not there: %v", err)
	}
	if _, _, err := Holder(filepath.Join(t.TempDir(), "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the holder of no lock: %v", err)
	}
}
