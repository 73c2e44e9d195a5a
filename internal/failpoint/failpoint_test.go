package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestParseRefusesMistakes(t *testing.T) {
	for _, text := range []string{"c=crash", "a", "a=", "a=explode", "a=delay", "a=delay:x", "a=crash@0", "a=crash@x", "a=crash@"} {
		if _, err := Parse(text, "a", "b"); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestHits(t *testing.T) {
	s, err := Parse(" a=error@2  b=delay:1ms ", "a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	var want *Error
	for hit := 1; hit <= 3; hit++ {
		if err := s.Hit("a"); (hit == 2) != errors.As(err, &want) {
			t.Errorf("hit %d gave %v", hit, err)
		}
	}
	start := time.Now()
	if err := s.Hit("b"); err != nil || time.Since(start) < time.Millisecond {
		t.Errorf("delay gave %v after %v", err, time.Since(start))
	}
	if err := s.Hit("c"); err != nil {
		t.Error(err)
	}
	if err := (*Set)(nil).Hit("a"); err != nil {
		t.Error(err)
	}
	if s, err := Parse("", "a"); s != nil || err != nil {
		t.Errorf("no failpoints gave %v, %v", s, err)
	}
}

func TestCrash(t *testing.T) {
	const child = "FAILPOINT_TEST_CHILD"
	if os.Getenv(child) != "" {
		s, _ := Parse("a=crash", "a")
		s.Hit("a")
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestCrash$")
	cmd.Env = append(os.Environ(), child+"=1")
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the child ended with %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a=crash@5 b=delay:20ms")
	f.Fuzz(func(t *testing.T, text string) { _, _ = Parse(text, "a", "b") })
}
