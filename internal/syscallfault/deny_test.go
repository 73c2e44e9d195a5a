package syscallfault

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// asDenied makes the test binary deny itself a system call and try it.
const asDenied = "SYSCALLFAULT_TEST_AS_DENIED"

func TestDeny(t *testing.T) {
	if os.Getenv(asDenied) != "" {
		if err := Deny(unix.SYS_GETPRIORITY); err != nil {
			t.Skip(err)
		}
		for range 8 { // on whatever threads
			done := make(chan error)
			go func() {
				_, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
				done <- err
			}()
			if err := <-done; !errors.Is(err, unix.EPERM) {
				t.Errorf("a denied call gave %v", err)
			}
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeny$", "-test.v")
	cmd.Env = append(os.Environ(), asDenied+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if bytes.Contains(out, []byte("SKIP")) {
		t.Skipf("%s", out)
	}
}
