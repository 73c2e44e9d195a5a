package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/faultline-vm/faultline/internal/sdnotify"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// keeper is to a pager that runs as a child what systemd is to a unit: it receives the
// messages of sd_notify(3), keeps the descriptors that they carry, and gives them to the
// next pager. The pager knows one way only.
//
// Its socket lies in the pager's directory, notify.sock, so that a pager which outlives
// its supervisor reaches the next one, of whom the last that came hears it. What was
// kept ends with the supervisor: adoption needs it only where pidfd_getfd(2) does not
// work.
//
// mu is a leaf and not held across I/O.
type keeper struct {
	conn     *net.UnixConn
	path     string
	own      os.FileInfo // of the socket, to tell it from a later keeper's
	received chan struct{}
	beats    atomic.Int64 // signs of life so far

	mu   sync.Mutex
	kept []deposit // protected by mu
}

// deposit is one descriptor of a name. The keeper owns it.
type deposit struct {
	name string
	fd   int
}

// NotifySocket returns where a supervisor of pagers that run as its children listens to
// them, below a data directory. What names it in NOTIFY_SOCKET is a pager that a
// supervisor which comes later hears as well.
func NotifySocket(dataDir, version string) string {
	return filepath.Join(pager.Dir(dataDir, version), "notify.sock")
}

// maxKept is FileDescriptorStoreMax= of the unit. What exceeds it is closed.
const maxKept = 8192

// newKeeper listens at path. A socket that is there is an earlier keeper's.
func newKeeper(path string) (*keeper, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the socket on which the pager is heard: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("the socket on which the pager is heard: %w", err)
	}
	k := &keeper{conn: conn, path: path, received: make(chan struct{})}
	// The directory is closed to others, so nobody could send in between.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if k.own, err = os.Lstat(path); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go k.receive()
	return k, nil
}

// receive deals with messages until the socket is closed. A message that makes no sense
// is nobody's loss but its sender's.
func (k *keeper) receive() {
	defer close(k.received)
	buf := make([]byte, 4096)
	for {
		n, fds, err := uffd.ReceiveFDs(k.conn, buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			k.obey(parseMessage(string(buf[:n])), fds)
		}
	}
}

// message is what a pager says, as far as a keeper understands it.
type message struct {
	alive, store, remove bool
	name                 string
}

// parseMessage reads the lines of sd_notify(3).
func parseMessage(text string) (m message) {
	for line := range strings.SplitSeq(text, "\n") {
		switch variable, value, _ := strings.Cut(line, "="); {
		case variable == "FDNAME" && sdnotify.CheckName(value) == nil:
			m.name = value
		case value != "1":
		case variable == "WATCHDOG":
			m.alive = true
		case variable == "FDSTORE":
			m.store = true
		case variable == "FDSTOREREMOVE":
			m.remove = true
		}
	}
	return m
}

// obey deals with a message. Descriptors that it does not keep it closes, among them
// that of BARRIER=1, whose sender waits for just that.
func (k *keeper) obey(m message, fds []int) {
	if m.alive {
		k.beats.Add(1)
	}
	k.mu.Lock()
	var unwanted []int
	if m.remove {
		k.kept = slices.DeleteFunc(k.kept, func(d deposit) bool {
			if d.name == m.name {
				unwanted = append(unwanted, d.fd)
			}
			return d.name == m.name
		})
	}
	for _, fd := range fds {
		if m.store && m.name != "" && len(k.kept) < maxKept {
			k.kept = append(k.kept, deposit{m.name, fd})
		} else {
			unwanted = append(unwanted, fd)
		}
	}
	k.mu.Unlock()
	uffd.CloseAll(unwanted)
}

// pass returns copies of what is kept, for a pager that is about to be started: all that
// the dead one has stored. The caller closes the files.
func (k *keeper) pass() (names []string, files []*os.File, err error) {
	if !k.heard() {
		// Another keeper was told meanwhile what to drop.
		k.drop()
		return nil, nil, nil
	}
	// What the dead pager said last may still lie in the socket.
	n, err := sdnotify.New(func(string) string { return k.path })
	if err == nil {
		err = n.Barrier()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("hearing the dead pager's last words: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.kept {
		fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeFiles(files)
			return nil, nil, fmt.Errorf("copying a descriptor for the pager: %w", err)
		}
		names, files = append(names, d.name), append(files, os.NewFile(uintptr(fd), d.name))
	}
	return names, files, nil
}

// heard reports whether the socket is still this keeper's.
func (k *keeper) heard() bool {
	info, err := os.Lstat(k.path)
	return err == nil && os.SameFile(info, k.own)
}

// drop closes what is kept.
func (k *keeper) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.kept {
		_ = unix.Close(d.fd) // nothing depends on it
	}
	k.kept = nil
}

func (k *keeper) close() {
	if k.heard() {
		_ = os.Remove(k.path) // the next keeper does it too
	}
	k.conn.Close()
	<-k.received
	k.drop()
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
