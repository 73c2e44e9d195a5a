package pager

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/pager/control"
)

func TestDetach(t *testing.T) {
	for _, pageSize := range []uint64{pageSize4K, pageSize2M} {
		t.Run(fmt.Sprint(pageSize>>10, "KiB"), func(t *testing.T) {
			pages := int(16 * pageSize / control.PageSize)
			if pageSize == pageSize2M {
				hugepages.Reserve(t, 16)
			}
			p := newTestPager(t, MinCacheBytes)
			group := int(pageSize / control.PageSize)
			manifest, model := sealed(t, pages, 1, func(page int) bool { return page/group%3 > 0 })
			vmm := startFaulter(t, faulter.Region{Size: 6 * pageSize, PageSize: pageSize}, faulter.Region{Size: 10 * pageSize, PageSize: pageSize})
			overlay := []byte("identity")
			// In a page group that the image has as zeros.
			at := 3 * pageSize
			attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest, Overlays: []control.Overlay{{Offset: at, Data: overlay}}})
			copy(model[at:], overlay)
			if err := vmm.Remove(4*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
			clear(model[4*pageSize : 5*pageSize])
			if err := vmm.Write(7*pageSize, []byte("written")); err != nil {
				t.Fatal(err)
			}
			copy(model[7*pageSize:], "written")
			s, err := p.Detach(context.Background(), "a")
			if err != nil || s.State != control.Ended || !strings.Contains(s.Reason, "detached") {
				t.Fatalf("detach gave %+v, %v", s, err)
			}
			if err := p.Close(); err != nil { // the pager's end is nothing to the guest any more
				t.Fatal(err)
			}
			wantMemory(t, vmm, model)
			if err := vmm.Remove(8*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
			clear(model[8*pageSize : 9*pageSize])
			wantMemory(t, vmm, model)
		})
	}
}

func TestDetachCalledOff(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, model := sealed(t, 64, 1, everyPage)
	create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	ctx, cancel := context.WithCancel(context.Background())
	withReader(t, p, "a", func(offset int64) error {
		if offset >= 32*4096 {
			cancel()
		}
		return nil
	})
	if _, err := p.Detach(ctx, "a"); problem.From(err).Code != "not_serving" {
		t.Errorf("detaching a session without VMM gave %v", err)
	}
	s, _ := p.Session("a")
	vmm := startFaulter(t, pagesOf(64))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	await(t, p, "a", control.Serving)
	if _, err := p.Detach(ctx, "a"); problem.From(err).Code != "not_detached" {
		t.Errorf("a detach that was called off gave %v", err)
	}
	wantMemory(t, vmm, model)
	if s, err := p.Detach(context.Background(), "a"); err != nil {
		t.Errorf("a later detach gave %+v, %v", s, err)
	}
	wantMemory(t, vmm, model)
}

// A guest's balloon that is just giving memory back must not hang when the session goes.
func TestDetachWhileTheGuestGivesBack(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 256, 1, everyPage)
	vmm := startFaulter(t, pagesOf(256))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	var calls []*faulter.Call[faulter.None]
	for i := range uint64(32) {
		calls = append(calls, vmm.StartRemove(i*8*4096, 4096))
	}
	if _, err := p.Detach(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if _, err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// newVersion returns a second pager in p's data directory, as if of another version.
func newVersion(t *testing.T, p *Pager, version string) *Pager {
	t.Helper()
	cfg := p.cfg
	cfg.Version, cfg.Failpoints = version, nil
	next, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := listenPrivate(handoverSocket(next.dir))
	if err != nil {
		t.Fatal(err)
	}
	go next.acceptHandovers(listener)
	t.Cleanup(func() {
		listener.Close()
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	})
	return next
}

// TestHandover moves sessions to and fro between two pagers while their guests work.
func TestHandover(t *testing.T) {
	const guests, pages = 4, 256
	p := newTestPager(t, MinCacheBytes)
	vmms, models := make([]*faulter.Process, guests), make([][]byte, guests)
	for i := range guests {
		manifest, model := sealed(t, pages, i, func(page int) bool { return page%4 > 0 })
		models[i], vmms[i] = model, startFaulter(t, pagesOf(pages/2), pagesOf(pages/2))
		attach(t, p, vmms[i], control.SessionRequest{ID: fmt.Sprint("g", i), Image: manifest})
		await(t, p, fmt.Sprint("g", i), control.Serving)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range guests {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(r, vmms[i], models[i], 0, pages); err != nil {
					t.Errorf("guest %d: %v", i, err)
					return
				}
			}
		})
	}
	from := p
	for n := range 4 {
		next := newVersion(t, p, fmt.Sprint("9.9.", n))
		h, err := from.Handover(context.Background(), control.HandoverRequest{To: next.dir})
		if err != nil || h.HandedOver != guests || len(h.Kept) > 0 || h.Version != next.version {
			t.Fatalf("handover gave %+v, %v", h, err)
		}
		select {
		case <-from.Drained():
		case <-time.After(patience):
			t.Fatal("the old pager is not drained")
		}
		from = next
	}
	close(stop)
	running.Wait()
	for i := range guests {
		wantMemory(t, vmms[i], models[i])
		if s := await(t, from, fmt.Sprint("g", i), control.Serving); s.VMMPID != vmms[i].Pid() {
			t.Errorf("session %+v", s)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.sessionDir(), "*")); len(left) > 0 {
		t.Errorf("left behind at the first pager: %v", left)
	}
}

// What cannot be handed over goes on where it is.
func TestHandoverRefused(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, model := sealed(t, 64, 1, everyPage)
	vmm := startFaulter(t, pagesOf(64))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	to := filepath.Join(p.cfg.DataDir, "uffd", "other")
	if err := os.MkdirAll(filepath.Join(to, "sessions"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"relative", p.dir, to} {
		if _, err := p.Handover(context.Background(), control.HandoverRequest{To: dir}); err == nil {
			t.Errorf("handover to %q succeeded", dir)
		}
	}
	// Something that is not a pager.
	l, err := listenPrivate(handoverSocket(to))
	if err != nil {
		t.Fatal(err)
	}
	go serveLines(l, "HTTP/1.1 400 Bad Request\r\n\r\n")
	if _, err := p.Handover(context.Background(), control.HandoverRequest{To: to}); problem.From(err).Code != "no_successor" {
		t.Errorf("handover to something else gave %v", err)
	}
	l.Close()
	if _, err := p.Create(control.SessionRequest{ID: "b", Image: manifest}); err != nil {
		t.Errorf("a handover that never began keeps new sessions out: %v", err)
	}
	if _, err := p.CloseSession("b"); err != nil {
		t.Error(err)
	}
	// Something that greets like a pager, and then does not take the session.
	if l, err = listenPrivate(handoverSocket(to)); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveLines(l, `{"format":1,"version":"x"}`+"\n", `{"format":1,"error":"no room"}`+"\n")
	h, err := p.Handover(context.Background(), control.HandoverRequest{To: to})
	if err != nil || h.HandedOver != 0 || len(h.Kept) != 1 || !strings.Contains(h.Kept[0].Reason, "no room") {
		t.Errorf("handover gave %+v, %v", h, err)
	}
	wantMemory(t, vmm, model)
	if s, _ := p.Session("a"); s.State != control.Serving {
		t.Errorf("the session is %+v", s)
	}
}

// serveLines answers each connection's messages with lines, one after the other.
func serveLines(l *net.UnixListener, lines ...string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for _, line := range lines {
				if _, err := conn.Read(make([]byte, 4096)); err != nil {
					return
				}
				conn.Write([]byte(line))
			}
		}()
	}
}

// The old pager dies in the middle of a handover: the session is the one's or the
// other's, and whoever has it serves it.
func TestCrashWithinAHandover(t *testing.T) {
	for _, point := range []string{pointHandoverMoved, pointHandoverSent} {
		t.Run(point, func(t *testing.T) {
			dir := shortdir.Make(t)
			manifest, model := sealed(t, 64, 1, everyPage)
			old := startPager(t, dir, point+"=crash")
			s, err := old.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
			if err != nil {
				t.Fatal(err)
			}
			vmm := startFaulter(t, pagesOf(64))
			if err := vmm.Handshake(s.Socket); err != nil {
				t.Fatal(err)
			}
			old.session(t, "a", control.Serving)
			first, err := New(Config{DataDir: dir, CacheMaxBytes: MinCacheBytes, Version: "9.9.9"})
			if err != nil {
				t.Fatal(err)
			}
			listener, err := listenPrivate(handoverSocket(first.dir))
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go first.acceptHandovers(listener)
			if _, err := old.Handover(context.Background(), control.HandoverRequest{To: first.dir}); err == nil {
				t.Error("the old pager did not die")
			}
			<-old.exited
			// The end of the connection tells the new pager what it has got.
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				if _, err := first.Session("a"); err == nil {
					break
				}
			}
			await(t, first, "a", control.Serving)
			wantMemory(t, vmm, model)
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFailpointNamesAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range Failpoints() {
		if seen[name] {
			t.Errorf("failpoint %q stands twice", name)
		}
		seen[name] = true
	}
	if _, err := failpoint.Parse("accepted=crash", Failpoints()...); err != nil {
		t.Error(err)
	}
}
