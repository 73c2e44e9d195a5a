package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/pagertest"
	"github.com/faultline-vm/faultline/internal/sdnotify"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

const guestPages = 32

// image makes a memory image and returns its manifest and content.
func image(t *testing.T) (manifest string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	content = make([]byte, guestPages*control.PageSize)
	for i := range content {
		content[i] = byte(1 + (i/control.PageSize*31+i*7)%255)
	}
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := memimage.Seal(t.Context(), memimage.SealOptions{Source: raw, Dir: dir, Kind: memimage.Full}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, memimage.ManifestName), content
}

// guest makes a session with a process whose memory it serves.
func guest(t *testing.T, c *client.Client, id, manifest string) *faulter.Process {
	t.Helper()
	vmm := newcomer(t)
	s, err := c.CreateSession(t.Context(), control.SessionRequest{ID: id, Image: manifest})
	if err == nil {
		err = vmm.Handshake(s.Socket)
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitSession(t, c, id, control.Serving)
	return vmm
}

// awaitSession waits until a session is in the state.
func awaitSession(t *testing.T, c *client.Client, id string, want control.State) control.Session {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, err := c.Session(context.Background(), id)
		if err == nil && s.State == want {
			return s
		}
		if time.Now().After(deadline) || err == nil && !s.State.Active() {
			t.Fatalf("session %q is %q (%s) instead of %q: %v", id, s.State, s.Reason, want, err)
		}
	}
}

// wantPages reads pages of a guest.
func wantPages(t *testing.T, vmm *faulter.Process, content []byte, from, to uint64) {
	t.Helper()
	from, to = from*control.PageSize, to*control.PageSize
	read := vmm.StartRead(from, to-from)
	select {
	case <-read.Done():
	case <-time.After(patience):
		t.Fatal("the guest waits for a page, and nobody serves it")
	}
	got, err := read.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content[from:to]) {
		t.Errorf("the pages from %d to %d differ", from/control.PageSize, to/control.PageSize)
	}
}

// names lists of which sessions a supervisor keeps something.
func (s *Supervisor) names() (names []string) {
	k := s.launcher.(*childLauncher).keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.kept {
		_, id, _ := strings.Cut(d.name, ".") // of session.a.1.2, listener.a or connection.a
		id, _, _ = strings.Cut(id, ".")
		names = append(names, id)
	}
	return names
}

// wantKept waits until a supervisor keeps one descriptor of each of these sessions.
func wantKept(t *testing.T, s *Supervisor, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		diff := cmp.Diff(want, s.names())
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kept are (-want +got):\n%s", diff)
		}
	}
}

func replace(t *testing.T, s *Supervisor) {
	t.Helper()
	pid := s.PID()
	kill(t, pid)
	awaitWatching(t, s, awaitOther(t, s.Client, pid).PID)
}

// TestDeposits kills pagers that may not take descriptors from other processes.
func TestDeposits(t *testing.T) {
	t.Setenv(withoutGetfd, "1")
	manifest, content := image(t)
	s := supervised(t, child(t))
	a, b := guest(t, s.Client, "a", manifest), guest(t, s.Client, "b", manifest)
	wantKept(t, s, "a", "b")
	for i := range uint64(3) {
		wantPages(t, a, content, 4*i, 4*i+2)
		replace(t, s)
		awaitSession(t, s.Client, "a", control.Serving)
		wantPages(t, a, content, 4*i+2, 4*i+4)
	}
	wantPages(t, b, content, 0, guestPages)
	if _, err := s.CloseSession(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	wantKept(t, s, "a")
	// A guest that ends while there is no pager leaves a copy that is of no use.
	c := guest(t, s.Client, "c", manifest)
	wantKept(t, s, "a", "c")
	pid := s.PID()
	kill(t, pid)
	c.Kill()
	awaitWatching(t, s, awaitOther(t, s.Client, pid).PID)
	wantKept(t, s, "a")
	// A supervisor that finds the pager has none of the copies, but gets new ones.
	awaitSession(t, s.Client, "a", control.Serving)
	next := supervised(t, s.cfg)
	guest(t, next.Client, "d", manifest)
	wantKept(t, next, "d")
	if _, err := next.Detach(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	wantKept(t, next)
	wantPages(t, a, content, 12, guestPages)
}

// A VMM that closed its own descriptor, as Firecracker before 1.12 does, is adopted
// only from a copy. One whose memory is gone, since its process is, is not.
func TestDepositOfAVMMThatKeepsNone(t *testing.T) {
	manifest, content := image(t)
	s := supervised(t, child(t))
	vmm := guest(t, s.Client, "a", manifest)
	wantKept(t, s, "a")
	wantPages(t, vmm, content, 0, 2)
	if err := vmm.CloseFD(); err != nil {
		t.Fatal(err)
	}
	replace(t, s)
	awaitSession(t, s.Client, "a", control.Serving)
	wantPages(t, vmm, content, 2, guestPages)
}

// TestNoDeposit names what is missing where neither way is there.
func TestNoDeposit(t *testing.T) {
	t.Setenv(withoutGetfd, "1")
	manifest, _ := image(t)
	o := options(t)
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	vmm := guest(t, p.Client, "a", manifest)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	var session control.Session
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if session, err = p.Session(t.Context(), "a"); err == nil && !session.State.Active() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the session is %+v, %v", session, err)
		}
	}
	for _, text := range []string{"pidfd_getfd", "no service manager kept its userfaultfd"} {
		if session.State != control.Failed || !strings.Contains(session.Reason, text) {
			t.Errorf("the session is %s: %s; want %q in it", session.State, session.Reason, text)
		}
	}
	if _, err := vmm.Payload(); err != nil {
		t.Errorf("the VMM was ended though the permission may be given: %v", err)
	}
	if _, err := p.CloseSession(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	select {
	case <-vmm.Exited():
	case <-time.After(patience):
		t.Error("closing the session left its VMM frozen")
	}
}

// TestHandoverMovesDeposits hands a session to the pager of another supervisor.
func TestHandoverMovesDeposits(t *testing.T) {
	manifest, content := image(t)
	cfg := child(t)
	const other = "99.0.1-test"
	binary, err := pagertest.Build(t.TempDir(), other)
	if err != nil {
		t.Fatal(err)
	}
	newer := cfg
	newer.Binary, newer.Version = binary, other
	old, young := supervised(t, cfg), supervised(t, newer)
	vmm := guest(t, old.Client, "a", manifest)
	wantKept(t, old, "a")
	h, err := old.Handover(t.Context(), control.HandoverRequest{To: pager.Dir(cfg.DataDir, other)})
	if err != nil || h.HandedOver != 1 {
		t.Fatalf("handover gave %+v, %v", h, err)
	}
	wantKept(t, old)
	wantKept(t, young, "a")
	wantPages(t, vmm, content, 0, guestPages)
}

func TestKeeperBounds(t *testing.T) {
	dir := shortdir.Make(t)
	path := filepath.Join(dir, "s")
	k, err := newKeeper(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := sdnotify.New(func(string) string { return path })
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	k.mu.Lock()
	k.kept = make([]deposit, maxKept-1)
	for i := range k.kept {
		k.kept[i] = deposit{"other", -1}
	}
	k.mu.Unlock()
	if err := n.Store("a", int(file.Fd()), int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(); err != nil {
		t.Fatal(err)
	}
	if got := open(); got != before+1 {
		t.Errorf("%d more descriptors are open after two were sent and one was kept", got-before)
	}
	if err := errors.Join(n.Remove("other"), n.Barrier()); err != nil {
		t.Fatal(err)
	}
	names, files, err := k.pass()
	if err != nil || !cmp.Equal(names, []string{"a"}) || len(files) != 1 {
		t.Errorf("passed %q and %d files, %v", names, len(files), err)
	}
	closeFiles(files)
	// A later keeper takes the socket over, and what this one has is of no use.
	later, err := newKeeper(path)
	if err != nil {
		t.Fatal(err)
	}
	if names, _, err := k.pass(); err != nil || names != nil {
		t.Errorf("a keeper whom nobody tells anything passed %q, %v", names, err)
	}
	k.close()
	if err := n.Barrier(); err != nil {
		t.Errorf("the end of one keeper made the other deaf: %v", err)
	}
	later.close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if got := open(); got > before {
		t.Errorf("%d descriptors are left open", got-before)
	}
}

func TestParseMessage(t *testing.T) {
	for text, want := range map[string]message{
		"":                                      {},
		"READY=1":                               {},
		"WATCHDOG=1":                            {alive: true},
		"WATCHDOG=trigger":                      {},
		"FDSTORE=1\nFDPOLL=0\nFDNAME=a":         {store: true, name: "a"},
		"FDNAME=a:b\nFDSTOREREMOVE=1":           {remove: true},
		"FDSTOREREMOVE=1\nFDNAME=b\nWATCHDOG=1": {remove: true, name: "b", alive: true},
	} {
		if got := parseMessage(text); got != want {
			t.Errorf("%q is read as %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add("FDSTORE=1\nFDNAME=a")
	f.Add("FDNAME=\n=\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		if m := parseMessage(text); m.name != "" && sdnotify.CheckName(m.name) != nil {
			t.Fatalf("accepted the name %q", m.name)
		}
	})
}

// TestManyDeposits passes more descriptors to a pager than a process has open when it
// starts another one, among them that of the executable itself.
func TestManyDeposits(t *testing.T) {
	manifest, content := image(t)
	s := supervised(t, child(t))
	var ids []string
	for i := range 12 {
		ids = append(ids, fmt.Sprint("s", i))
		if _, err := s.CreateSession(t.Context(), control.SessionRequest{ID: ids[i], Image: manifest}); err != nil {
			t.Fatal(err)
		}
	}
	wantKept(t, s, ids...)
	replace(t, s)
	for _, id := range ids {
		awaitSession(t, s.Client, id, control.Waiting)
	}
	wantKept(t, s, ids...)
	last, err := s.Session(t.Context(), ids[11])
	if err != nil {
		t.Fatal(err)
	}
	vmm := newcomer(t)
	if err := vmm.Handshake(last.Socket); err != nil {
		t.Fatal(err)
	}
	awaitSession(t, s.Client, ids[11], control.Serving)
	wantPages(t, vmm, content, 0, guestPages)
}
