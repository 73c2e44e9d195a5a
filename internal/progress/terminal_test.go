package progress

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns a terminal, and a function that reads what is written to it
// until that contains a text.
func openTerminal(t *testing.T) (*os.File, func(until string) string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo terminal: %v; mount devpts", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no pseudo terminal: %v; mount devpts", err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminal: %v; mount devpts", err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, func(until string) string {
		t.Helper()
		var seen strings.Builder
		buf := make([]byte, 256)
		deadline := time.Now().Add(time.Minute)
		for !strings.Contains(seen.String(), until) {
			n, err := unix.Read(int(master.Fd()), buf)
			if err == unix.EAGAIN && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatalf("read the terminal after %q: %v", seen.String(), err)
			}
			seen.Write(buf[:n])
		}
		return seen.String()
	}
}
