package systemd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// guestPages is the size of a guest's memory in pages.
const guestPages = 64

// image makes the memory image of the guests, once, and returns its content.
func image(t *testing.T) (manifest string, content []byte) {
	t.Helper()
	dir := filepath.Join(dataDir, "image")
	manifest = filepath.Join(dir, memimage.ManifestName)
	content = make([]byte, guestPages*control.PageSize)
	for i := range content {
		content[i] = byte(1 + (i/control.PageSize*31+i*7)%255)
	}
	if _, err := os.Stat(manifest); err == nil {
		return manifest, content
	}
	raw := filepath.Join(dir, "raw")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(raw, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := memimage.Seal(t.Context(), memimage.SealOptions{Source: raw, Dir: dir, Kind: memimage.Full}); err != nil {
		t.Fatal(err)
	}
	return manifest, content
}

// guest is a process out of the unit's sandbox whose memory a pager serves.
type guest struct {
	*faulter.Process
	content []byte
}

// newGuest makes a guest with a session of the id.
func newGuest(t *testing.T, c *client.Client, id string) guest {
	t.Helper()
	g := newcomer(t)
	if err := g.Handshake(newSession(t, c, id).Socket); err != nil {
		t.Fatal(err)
	}
	return g
}

// newSession makes a session that waits for its guest.
func newSession(t *testing.T, c *client.Client, id string) control.Session {
	t.Helper()
	manifest, _ := image(t)
	session, err := c.CreateSession(t.Context(), control.SessionRequest{ID: id, Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// newcomer makes a guest that has no session yet.
func newcomer(t *testing.T) guest {
	t.Helper()
	_, content := image(t)
	vmm, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: uint64(len(content))}}})
	if errors.Is(err, faulter.ErrRefused) {
		t.Skipf("no userfaultfd in the container: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vmm.Kill() })
	return guest{vmm, content}
}

// check reads a page and compares it.
func (g guest) check(page uint64) error {
	read := g.StartRead(page*control.PageSize, control.PageSize)
	select {
	case <-read.Done():
	case <-time.After(patience):
		return errors.New("a page never came")
	}
	got, err := read.Wait()
	if err == nil && !bytes.Equal(got, g.content[page*control.PageSize:][:control.PageSize]) {
		err = errors.New("a page is wrong")
	}
	return err
}

// wantPage checks a page, and says what the session is like if it is not right.
func (g guest) wantPage(t *testing.T, s *supervisor.Supervisor, id string, page uint64) {
	t.Helper()
	if err := g.check(page); err != nil {
		st, askErr := s.Session(t.Context(), id)
		t.Fatalf("page %d: %v; the session is %+v, %v", page, err, st, askErr)
	}
}

// guestsSurvive kills the pager, and goes on in the next one, which takes the
// userfaultfd from the process.
func guestsSurvive(t *testing.T) {
	s := supervise(t, "", -1)
	g := newGuest(t, s.Client, "guest")
	for page := range uint64(guestPages) {
		if page%16 == 8 {
			killPager(t, s)
		}
		g.wantPage(t, s, "guest", page)
	}
	if st, err := s.Session(t.Context(), "guest"); err != nil || st.State != control.Serving {
		t.Errorf("after four kills the session is %+v, %v", st, err)
	}
	if _, err := s.CloseSession(t.Context(), "guest"); err != nil {
		t.Errorf("the unit may not end a VMM: %v", err)
	}
}

// loadsSurvive has guests connect to a pager that is stopped, and is killed before it
// knows of them. Systemd kept the sockets.
func loadsSurvive(t *testing.T) {
	s := supervise(t, "", -1)
	session := newSession(t, s.Client, "guest")
	stored(t, "", "1")
	for _, g := range []guest{newcomer(t), newcomer(t)} {
		if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := g.Handshake(session.Socket); err != nil {
			t.Fatal(err)
		}
		killPager(t, s)
		g.wantPage(t, s, session.ID, 0)
		stored(t, "", "1") // its userfaultfd, and no socket any more
		if _, err := s.CloseSession(t.Context(), session.ID); err != nil {
			t.Fatal(err)
		}
		session = newSession(t, s.Client, "next")
	}
	if _, err := s.CloseSession(t.Context(), session.ID); err != nil {
		t.Fatal(err)
	}
	stored(t, "", "0")
}

// stored waits until systemd keeps so many descriptors for a unit.
func stored(t *testing.T, version, want string) {
	t.Helper()
	eventually(t, want+" descriptors in the store", func() bool {
		return property(t, version, "NFileDescriptorStore") == want
	})
}

// guestsFromTheStore does the same where the pager may not take descriptors from other
// processes. Systemd gives them back to it, after a kill and after a stop that left a
// guest behind.
func guestsFromTheStore(t *testing.T) {
	dropIn(t, "", "SystemCallFilter=~pidfd_getfd\nTimeoutStopSec=1s")
	s := supervise(t, "", -1)
	g, other := newGuest(t, s.Client, "guest"), newGuest(t, s.Client, "other")
	g.wantPage(t, s, "guest", 0)
	other.wantPage(t, s, "other", 0)
	stored(t, "", "2")
	for page := uint64(1); page < 4; page++ {
		killPager(t, s)
		g.wantPage(t, s, "guest", page)
	}
	if _, err := s.CloseSession(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	stored(t, "", "1")
	pid := s.PID()
	systemctl(t, "stop", unitOf(""))
	systemctl(t, "start", unitOf(""))
	eventually(t, "a pager in the place of the stopped one", func() bool {
		h, err := s.Health(t.Context())
		return err == nil && h.PID != pid
	})
	g.wantPage(t, s, "guest", 4)
	if _, err := s.CloseSession(t.Context(), "guest"); err != nil {
		t.Fatal(err)
	}
	stored(t, "", "0")
}

// hangingPager stops the pager with a signal, which no death tells of.
func hangingPager(t *testing.T) {
	dropIn(t, "", "WatchdogSec=2s")
	s := supervise(t, "", -1)
	g := newGuest(t, s.Client, "guest")
	g.wantPage(t, s, "guest", 0)
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	g.wantPage(t, s, "guest", 1)
	// Systemd lets the pager go on so that it can say where it hangs, and it may serve the
	// page before it dies of that.
	awaitOther(t, s, pid)
	if _, err := s.CloseSession(t.Context(), "guest"); err != nil {
		t.Fatal(err)
	}
}

// upgrade hands guests that work over to the pager of another version, and back.
func upgrade(t *testing.T) {
	old, young := supervise(t, "", -1), supervise(t, secondVersion, -1)
	const guests = 4
	stop := make(chan struct{})
	var running sync.WaitGroup
	ids := []string{"g0", "g1", "g2", "g3"}
	for i := range guests {
		g := newGuest(t, old.Client, ids[i])
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				page := r.Uint64N(guestPages)
				if err := g.check(page); err != nil {
					t.Errorf("guest %d, page %d: %v", i, page, err)
					return
				}
				// What is given back must be served again, as zeros.
				if err := g.Remove(page*control.PageSize, control.PageSize); err != nil {
					t.Errorf("guest %d: %v", i, err)
					return
				}
				clear(g.content[page*control.PageSize:][:control.PageSize])
			}
		})
	}
	stored(t, "", "4")
	h, err := old.Handover(t.Context(), control.HandoverRequest{To: pager.Dir(dataDir, secondVersion)})
	if err != nil || h.HandedOver != guests || h.Version != secondVersion {
		t.Errorf("handover gave %+v, %v", h, err)
	}
	if err := old.Err(); err != nil || old.Status().State != supervisor.Stopped {
		t.Errorf("after the handover the old pager's supervisor ended with %v, %+v", err, old.Status())
	}
	stored(t, secondVersion, "4")
	stored(t, "", "0")
	killPager(t, young)
	for _, id := range ids {
		eventually(t, "the new pager adopts "+id, func() bool {
			st, err := young.Session(t.Context(), id)
			return err == nil && st.State == control.Serving
		})
	}
	// The version before is there still, if the new one is not what it should be.
	back := supervise(t, "", -1)
	if h, err = young.Handover(t.Context(), control.HandoverRequest{To: pager.Dir(dataDir, pager.Version())}); err != nil || h.HandedOver != guests {
		t.Errorf("handover back gave %+v, %v", h, err)
	}
	close(stop)
	running.Wait()
	for _, id := range ids {
		if _, err := back.CloseSession(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	stored(t, "", "0")
}
