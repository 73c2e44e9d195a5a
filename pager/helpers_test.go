package pager

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

// asPager makes the test binary run as the program faultline-pager.
const asPager = "FAULTLINE_TEST_AS_PAGER"

func TestMain(m *testing.M) {
	if os.Getenv(asPager) != "" {
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	faulter.Main()
	os.Exit(m.Run())
}

// patience bounds waits for things that happen at once unless something is broken.
const patience = 30 * time.Second

// newTestPager returns a pager in a directory whose socket paths are short.
func newTestPager(t *testing.T, cacheBytes uint64) *Pager {
	t.Helper()
	dir := shortdir.Make(t)
	p, err := New(Config{DataDir: dir, CacheMaxBytes: cacheBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// pageBytes is the content of a data page in tests: never zero, of every page its own.
func pageBytes(page, seed int) []byte {
	b := make([]byte, control.PageSize)
	for i := range b {
		b[i] = byte(1 + (page*31+seed*17+i*7+page>>8)%255)
	}
	return b
}

// sealed makes a flat image of pages 4 KiB pages, of which those hold data that
// data says, and returns its manifest's path and its whole content.
func sealed(t *testing.T, pages, seed int, data func(page int) bool) (manifest string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	content = make([]byte, pages*control.PageSize)
	for page := range pages {
		if data(page) {
			copy(content[page*control.PageSize:], pageBytes(page, seed))
		}
	}
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := memimage.Seal(context.Background(), memimage.SealOptions{Source: raw, Dir: dir, Kind: memimage.Full}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, memimage.ManifestName), content
}

func everyPage(int) bool   { return true }
func evenPages(p int) bool { return p%2 == 0 }

// startFaulter starts a process whose memory faults. It skips the test where
// userfaultfd is not permitted at all.
func startFaulter(t *testing.T, regions ...faulter.Region) *faulter.Process {
	t.Helper()
	p, err := faulter.Start(faulter.Config{Regions: regions})
	if errors.Is(err, faulter.ErrRefused) {
		t.Skipf("no userfaultfd here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p
}

func pagesOf(n int) faulter.Region { return faulter.Region{Size: uint64(n) * control.PageSize} }

// create opens a session.
func create(t *testing.T, p *Pager, req control.SessionRequest) control.Session {
	t.Helper()
	s, err := p.Create(req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attach opens a session for a process and makes its handshake.
func attach(t *testing.T, p *Pager, vmm *faulter.Process, req control.SessionRequest) control.Session {
	t.Helper()
	s := create(t, p, req)
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	return s
}

// await polls until the session is in the state.
func await(t *testing.T, p *Pager, id string, want control.State) control.Session {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, err := p.Session(id)
		if err != nil {
			t.Fatal(err)
		}
		if s.State == want {
			return s
		}
		if time.Now().After(deadline) || !s.State.Active() {
			t.Fatalf("session %q is %s (%s) instead of %s", id, s.State, s.Reason, want)
		}
	}
}

// wantExit waits for the end of a process that the pager must have killed.
func wantExit(t *testing.T, vmm *faulter.Process) {
	t.Helper()
	select {
	case <-vmm.Exited():
	case <-time.After(patience):
		t.Fatal("the VMM's process was not ended")
	}
}

// wantMemory compares the process's whole memory with content, page by page.
func wantMemory(t *testing.T, vmm *faulter.Process, content []byte) {
	t.Helper()
	got, err := vmm.Read(0, uint64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(content); at += control.PageSize {
		if !bytes.Equal(got[at:at+control.PageSize], content[at:at+control.PageSize]) {
			t.Fatalf("page %d of %d differs", at/control.PageSize, len(content)/control.PageSize)
		}
	}
}

// testLog logs to the test's output.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
