package pager

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"golang.org/x/sys/unix"
)

// faultyReader puts failures and delays in front of a reader.
type faultyReader struct {
	reader
	mu   sync.Mutex
	gate func(offset int64) error // called before each waiting read
}

func (r *faultyReader) readNow(*layer, []byte, int64) error { return errWouldWait }

func (r *faultyReader) read(l *layer, buf []byte, offset int64) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if err := gate(offset); err != nil {
		return err
	}
	return r.reader.read(l, buf, offset)
}

// withReader replaces the reader of a session that waits for its VMM.
func withReader(t *testing.T, p *Pager, id string, gate func(offset int64) error) {
	t.Helper()
	s, err := p.session(id)
	if err != nil {
		t.Fatal(err)
	}
	s.source.reader = &faultyReader{reader: s.source.reader, gate: gate}
}

// A slow read for one thread must delay neither the others of its session nor
// another session, nor the reading of REMOVE events.
func TestSlowReadDelaysNobodyElse(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 64, 1, everyPage)
	otherManifest, content := sealed(t, 64, 2, everyPage)
	slow, other := startFaulter(t, pagesOf(64)), startFaulter(t, pagesOf(64))
	create(t, p, control.SessionRequest{ID: "slow", Image: manifest})
	stuck := make(chan struct{})
	withReader(t, p, "slow", func(offset int64) error {
		if offset < 8*4096 {
			<-stuck
		}
		return nil
	})
	s, _ := p.Session("slow")
	if err := slow.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	attach(t, p, other, control.SessionRequest{ID: "other", Image: otherManifest})

	for page := range uint64(8) { // eight threads wait for eight slow pages
		call := slow.StartRead(page*4096, 4096)
		defer call.Wait()
	}
	defer close(stuck)
	if _, err := slow.Read(20*4096, 20*4096); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s, err := p.Session("slow")
		if err != nil {
			t.Fatal(err)
		}
		if s.Stalled && s.OldestFaultMS >= control.StallLimit.Milliseconds() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("guests wait for pages, and the session says %+v", s)
		}
	}
	if s, _ := p.Session("other"); s.Stalled {
		t.Errorf("another session is stalled: %+v", s)
	}
	if err := slow.Remove(60*4096, 4096); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, other, content)
}

// A page that was removed while it was being read must read as zeros: the worker
// must not install what it read behind the zapping.
func TestRemoveOvertakesARead(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	reading, proceed := make(chan struct{}), make(chan struct{})
	withReader(t, p, "a", func(int64) error {
		close(reading)
		<-proceed
		return nil
	})
	s, _ := p.Session("a")
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	call := vmm.StartRead(4096, 4096)
	<-reading
	if err := vmm.Remove(4096, 4096); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	got, err := call.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range got {
		if b != 0 {
			t.Fatal("a removed page was given the image's content")
		}
	}
}

func TestReadsAreRepeated(t *testing.T) {
	manifest, content := sealed(t, 8, 1, everyPage)
	img, err := memimage.Open(manifest)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	layers, err := wrapLayers(img)
	if err != nil {
		t.Fatal(err)
	}
	good := layers[0].fd
	broken, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // read(2) gives EISDIR
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(broken)
	for _, failures := range []int{0, 2, readRetries, readRetries + 1} {
		layers[0].fd = broken
		if failures == 0 {
			layers[0].fd = good
		}
		retried := 0
		r := &fileReader{pause: time.Millisecond, copies: copies{places: func(*layer) []string { return nil }}, retried: func() {
			if retried++; retried == failures {
				layers[0].fd = good
			}
		}}
		buf := make([]byte, control.PageSize)
		err := r.read(&layers[0], buf, 4096)
		switch {
		case failures <= readRetries && (err != nil || !bytes.Equal(buf, content[4096:8192]) || retried != failures):
			t.Errorf("after %d failures and %d repetitions: %v", failures, retried, err)
		case failures > readRetries && (!errors.Is(err, unix.EISDIR) || !errors.Is(err, errNoCopy) || !strings.Contains(err.Error(), layers[0].Path())):
			t.Errorf("a read that never succeeds gave %v", err)
		}
	}
}

func TestUnreadablePageEndsTheVMMWithTheReason(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	vmm, other := startFaulter(t, pagesOf(8)), startFaulter(t, pagesOf(8))
	create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	withReader(t, p, "a", func(int64) error { return errors.New("the disk is on fire") })
	s, _ := p.Session("a")
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	attach(t, p, other, control.SessionRequest{ID: "b", Image: manifest})
	if got, err := vmm.Read(0, 4096); err == nil {
		t.Fatalf("the guest was given a page that could not be read: %x…", got[:8])
	}
	wantExit(t, vmm)
	if s := await(t, p, "a", control.Failed); !strings.Contains(s.Reason, "the disk is on fire") {
		t.Errorf("the reason is %q", s.Reason)
	}
	wantMemory(t, other, content)
}

func TestTruncatedImageEndsTheVMM(t *testing.T) {
	for _, keep := range []int64{0, 4096, 4096 + 100} {
		p := newTestPager(t, MinCacheBytes)
		manifest, _ := sealed(t, 8, 1, everyPage)
		vmm := startFaulter(t, pagesOf(8))
		attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
		await(t, p, "a", control.Serving)
		path := layerFile(t, manifest)
		shorten(t, path, keep)
		if got, err := vmm.Read(4096, 4096); err == nil {
			t.Fatalf("truncated to %d: the guest was given %x…", keep, got[:8])
		}
		wantExit(t, vmm)
		if s := await(t, p, "a", control.Failed); !strings.Contains(s.Reason, "truncated") || !strings.Contains(s.Reason, path) {
			t.Errorf("truncated to %d: the reason is %q", keep, s.Reason)
		}
	}
}

func TestVMMExitEndsTheSession(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	if err := vmm.Kill(); err != nil {
		t.Fatal(err)
	}
	s := await(t, p, "a", control.Ended)
	if s.Reason != errVMMExited.Error() {
		t.Errorf("the reason is %q", s.Reason)
	}
	if _, err := os.Stat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the session's socket is left: %v", err)
	}
}

// A VMM before 1.12 closes its connection after the handshake, and lives on.
func TestHangUpAfterTheHandshakeIsNoExit(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	if err := vmm.HangUp(); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, vmm, content)
}

func TestCloseEndsTheVMMAndIsRepeatable(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	if _, err := vmm.Read(0, 4096); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := p.CloseSession("a")
		if err != nil || s.State != control.Ended || s.Stats.CopiedPages != 1 {
			t.Fatalf("close gave %+v, %v", s, err)
		}
		wantExit(t, vmm)
	}
	// The id is free again.
	create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	if _, err := p.CloseSession("nobody"); problem.From(err).Code != "session_unknown" {
		t.Errorf("close of an unknown session gave %v", err)
	}
}

func TestFailedAndEndedSessionsLeaveNothing(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	before := processStats()
	for range 20 {
		vmm := startFaulter(t, pagesOf(8))
		attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
		if _, err := vmm.Read(0, 4096); err != nil {
			t.Fatal(err)
		}
		if _, err := p.CloseSession("a"); err != nil {
			t.Fatal(err)
		}
		vmm.Close()
	}
	after := processStats()
	if after.OpenFiles > before.OpenFiles+2 || after.Goroutines > before.Goroutines+2 {
		t.Errorf("20 sessions took open files from %d to %d and goroutines from %d to %d", before.OpenFiles, after.OpenFiles, before.Goroutines, after.Goroutines)
	}
	if left, _ := filepath.Glob(filepath.Join(p.sessionDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if p.images.Len() > 0 {
		t.Error("an image is still open")
	}
}

func TestShortReadIsNotSuccess(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 4000)); err != nil {
		t.Fatal(err)
	}
	if err := readFull(int(f.Fd()), make([]byte, 4096), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading beyond the end gave %v", err)
	}
}
