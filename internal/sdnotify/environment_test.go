package sdnotify

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStored starts a process with descriptors 3 and 4, as a service manager does.
func TestStored(t *testing.T) {
	for _, test := range []struct{ fds, names, want string }{
		{"2", "a:b.c", "a=first;b.c=second;"},
		{"2", "", "unknown=first;unknown=second;"},
		{"1", "a", "a=first;"},
		{"0", "", ""},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asService+"=1", "LISTEN_PPID="+fmt.Sprint(os.Getpid()), "LISTEN_FDS="+test.fds, "LISTEN_FDNAMES="+test.names)
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
		got, err := parseListen("LISTEN_PID", test.pid, test.fds, test.names, 7)
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
		got, err := parseListen("LISTEN_PID", pid, fds, names, 7)
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

func TestVariables(t *testing.T) {
	environ := []string{"PATH=/bin", "NOTIFY_SOCKET=/run/systemd/notify", "LISTEN_PID=1", "LISTEN_FDS=4", "WATCHDOG_USEC=5", "A=b=c"}
	self := fmt.Sprint(os.Getpid())
	for _, test := range []struct {
		got, want []string
	}{
		{Variables(environ, "", 0, nil), []string{"PATH=/bin", "A=b=c"}},
		{Variables(environ, "/n", 2*time.Second, []string{"a", "b"}), []string{
			"PATH=/bin", "A=b=c", "NOTIFY_SOCKET=/n", "WATCHDOG_USEC=2000000", "LISTEN_PPID=" + self, "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b",
		}},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestParseWatchdog(t *testing.T) {
	for _, test := range []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{"", "", 0, false},
		{"", "x", 0, false},
		{"10000000", "", 10 * time.Second, false},
		{"1500", "7", 1500 * time.Microsecond, false},
		{"1500", "8", 0, false},
		{"1500", "x", 0, true},
		{"0", "", 0, true},
		{"-1", "", 0, true},
		{"9223372036854775807", "", 0, true},
		{"soon", "", 0, true},
	} {
		got, err := parseWatchdog(test.usec, test.pid, 7)
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%+v gave %v, %v", test, got, err)
		}
	}
}
