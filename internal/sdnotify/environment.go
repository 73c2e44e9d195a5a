package sdnotify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// firstFD is SD_LISTEN_FDS_START.
const firstFD = 3

// FD is a descriptor that came back from the store.
type FD struct {
	Name string // as given to Store
	FD   int    // close-on-exec; the receiver owns it
}

// Stored returns the descriptors that the service manager passed to this process,
// by LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES. Getenv is os.Getenv. Call it once,
// early: a second call would give the same descriptors another owner. None were
// passed when the variables are missing or meant for another process.
//
// LISTEN_PPID, the number of the parent, may stand in the place of LISTEN_PID; see
// [Variables].
func Stored(getenv func(string) string) ([]FD, error) {
	variable, pid := "LISTEN_PID", os.Getpid()
	if getenv(variable) == "" {
		variable, pid = "LISTEN_PPID", os.Getppid()
	}
	fds, err := parseListen(variable, getenv(variable), getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), pid)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, fd := range fds {
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd.FD), syscall.F_GETFD, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("descriptor %d (%s) that LISTEN_FDS announces: %w", fd.FD, fd.Name, errno))
			continue
		}
		syscall.CloseOnExec(fd.FD)
	}
	return fds, errors.Join(errs...)
}

// maxListen bounds what LISTEN_FDS can make this process believe. It is the limit
// of descriptors per process that Linux allows without being told otherwise
// (fs.nr_open).
const maxListen = 1 << 20

// parseListen decodes the variables of sd_listen_fds_with_names(3).
// Pid is what the variable must hold.
func parseListen(variable, listenPID, listenFDs, listenNames string, pid int) ([]FD, error) {
	if listenPID == "" || listenFDs == "" {
		return nil, nil
	}
	if mine, err := meant(variable, listenPID, pid); err != nil || !mine {
		return nil, err
	}
	n, err := strconv.Atoi(listenFDs)
	if err != nil || n < 0 || n > maxListen {
		return nil, fmt.Errorf("LISTEN_FDS %q is no number of descriptors", listenFDs)
	}
	names := strings.Split(listenNames, ":")
	if listenNames == "" {
		names = nil
	}
	if n == 0 {
		return nil, nil
	}
	if len(names) != 0 && len(names) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for %d descriptors", len(names), n)
	}
	fds := make([]FD, n)
	for i := range fds {
		fds[i] = FD{Name: "unknown", FD: firstFD + i}
		if names != nil {
			fds[i].Name = names[i]
		}
	}
	return fds, nil
}

// meant reports whether a variable that holds a process number holds pid.
func meant(variable, value string, pid int) (bool, error) {
	number, err := strconv.Atoi(value)
	if err != nil || number <= 0 {
		return false, fmt.Errorf("%s %q is no process number", variable, value)
	}
	return number == pid, nil
}

// Watchdog returns within which time the service manager wants to hear [Notifier.Alive]
// again and again, by WATCHDOG_USEC and WATCHDOG_PID; 0 if it does not.
func Watchdog(getenv func(string) string) (time.Duration, error) {
	return parseWatchdog(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"), os.Getpid())
}

// parseWatchdog decodes the variables of sd_watchdog_enabled(3).
func parseWatchdog(usec, pid string, self int) (time.Duration, error) {
	if usec == "" {
		return 0, nil
	}
	if pid != "" {
		if mine, err := meant("WATCHDOG_PID", pid, self); err != nil || !mine {
			return 0, err
		}
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(maxWatchdog/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC %q is no number of microseconds up to a day", usec)
	}
	return time.Duration(n) * time.Microsecond, nil
}

// maxWatchdog is longer than anybody waits for a sign of life.
const maxWatchdog = 24 * time.Hour

// Variables returns the environment of a child of this process whose service manager
// this process is: environ without what another manager said in it, the socket on which
// the child's messages are received, the time within which it must say that it is alive
// (0: it need not), and the names of the descriptors that are passed to it, from number
// 3 on.
//
// A Go program cannot set a variable between fork and exec, so it cannot tell a child
// its number in LISTEN_PID. It tells its own, in LISTEN_PPID.
func Variables(environ []string, socket string, watchdog time.Duration, names []string) []string {
	var env []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PPID", "LISTEN_FDNAMES":
		default:
			env = append(env, variable)
		}
	}
	if socket != "" {
		env = append(env, "NOTIFY_SOCKET="+socket)
	}
	if watchdog > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	}
	if len(names) > 0 {
		env = append(env, fmt.Sprintf("LISTEN_PPID=%d", os.Getpid()), fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return env
}
