package pager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/pager/control"
)

// awaitCrash waits for the end of a pager that has a failpoint.
func (p *pagerProcess) awaitCrash(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatal("the pager did not die at its failpoint")
	}
}

// A session whose creation nobody was told of is there, and can be closed.
func TestCrashBehindTheRequest(t *testing.T) {
	dir, ctx := shortdir.Make(t), context.Background()
	manifest, _ := sealed(t, 8, 1, everyPage)
	crashing := startPager(t, dir, pointRequestWritten+"=crash")
	if _, err := crashing.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest}); err == nil {
		t.Fatal("the session was created")
	}
	crashing.awaitCrash(t)
	next := startPager(t, dir, "")
	next.session(t, "a", control.Waiting)
	if _, err := next.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest}); !errors.Is(err, &problem.Problem{Code: "session_exists"}) {
		t.Errorf("creating it again gave %v", err)
	}
	if _, err := next.CloseSession(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := next.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest}); err != nil {
		t.Errorf("creating it behind its close: %v", err)
	}
}

// A pager that dies while it adopts is followed by one that adopts.
func TestCrashWithinAnAdoption(t *testing.T) {
	for _, point := range []string{pointAdopted, pointWoken} {
		t.Run(point, func(t *testing.T) {
			dir := shortdir.Make(t)
			manifest, model := sealed(t, 64, 1, everyPage)
			p := startPager(t, dir, "")
			s, err := p.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
			if err != nil {
				t.Fatal(err)
			}
			vmm := startFaulter(t, pagesOf(64))
			if err := vmm.Handshake(s.Socket); err != nil {
				t.Fatal(err)
			}
			p.session(t, "a", control.Serving)
			p.kill()
			read := vmm.StartRead(0, 4096)
			startPager(t, dir, point+"=crash").awaitCrash(t)
			startPager(t, dir, "").session(t, "a", control.Serving)
			if _, err := read.Wait(); err != nil {
				t.Fatal(err)
			}
			wantMemory(t, vmm, model)
		})
	}
}

// A pager that dies while it detaches is followed by one that ends the detach: memory
// that is unregistered in part cannot be served.
func TestCrashWithinADetach(t *testing.T) {
	for _, pageSize := range []uint64{pageSize4K, pageSize2M} {
		for _, point := range []string{pointPopulated, pointUnregistered} {
			t.Run(fmt.Sprint(point, " ", pageSize>>10, "KiB"), func(t *testing.T) {
				const parts = 4
				if pageSize == pageSize2M {
					hugepages.Reserve(t, parts)
				}
				dir, pages := shortdir.Make(t), int(parts*pageSize/control.PageSize)
				manifest, model := sealed(t, pages, 1, func(page int) bool { return page%3 > 0 })
				crashing := startPager(t, dir, point+"=crash")
				s, err := crashing.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
				if err != nil {
					t.Fatal(err)
				}
				half := faulter.Region{Size: parts / 2 * pageSize, PageSize: pageSize}
				vmm := startFaulter(t, half, half)
				if err := vmm.Handshake(s.Socket); err != nil {
					t.Fatal(err)
				}
				crashing.session(t, "a", control.Serving)
				if err := vmm.Remove(0, pageSize); err != nil {
					t.Fatal(err)
				}
				clear(model[:pageSize])
				if _, err := crashing.Detach(context.Background(), "a"); err == nil {
					t.Error("the pager lived on")
				}
				crashing.awaitCrash(t)
				next := startPager(t, dir, "")
				for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
					s, err := next.Session(context.Background(), "a")
					if err == nil && s.State == control.Ended && s.Reason == errDetached.Error() {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("the session %s: %s (%v)", s.State, s.Reason, err)
					}
				}
				next.kill() // the guest needs no pager
				wantMemory(t, vmm, model)
				if left, _ := filepath.Glob(filepath.Join(Dir(dir, Version()), "sessions", "a")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// The pager that takes a session dies: the session stays at the other one, or is what
// the successor of the dead one finds. It is never at both.
func TestCrashOfThePagerThatTakes(t *testing.T) {
	for _, point := range []string{pointHandoverReceived, pointHandoverServing} {
		t.Run(point, func(t *testing.T) {
			dir := shortdir.Make(t)
			manifest, model := sealed(t, 64, 1, everyPage)
			old, err := New(Config{DataDir: dir, CacheMaxBytes: MinCacheBytes, Version: "0.0.1", Log: testLog(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			vmm := startFaulter(t, pagesOf(64))
			attach(t, old, vmm, control.SessionRequest{ID: "a", Image: manifest})
			await(t, old, "a", control.Serving)
			taking := startPager(t, dir, point+"=crash")
			h, err := old.Handover(context.Background(), control.HandoverRequest{To: Dir(dir, Version())})
			if err != nil || h.HandedOver+len(h.Kept) != 1 {
				t.Fatalf("the handover gave %+v, %v", h, err)
			}
			taking.awaitCrash(t)
			next := startPager(t, dir, "")
			if stays := point == pointHandoverReceived; stays != (len(h.Kept) == 1) {
				t.Errorf("the handover gave %+v", h)
			} else if stays {
				await(t, old, "a", control.Serving)
				if list, err := next.Sessions(context.Background()); err != nil || len(list) > 0 {
					t.Errorf("the other pager has %+v, %v", list, err)
				}
			} else {
				next.session(t, "a", control.Serving)
			}
			wantMemory(t, vmm, model)
		})
	}
}

// TestDrainOfAnotherBoot starts a pager that finds what one left that was draining when
// the host went down.
func TestDrainOfAnotherBoot(t *testing.T) {
	for _, test := range []struct{ boot, want string }{{"", "draining"}, {"another", "ok"}} {
		dir, ctx := shortdir.Make(t), context.Background()
		manifest, _ := sealed(t, 8, 1, everyPage)
		p := startPager(t, dir, "")
		if _, err := p.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		p.kill()
		path := filepath.Join(Dir(dir, Version()), drainFile)
		if test.boot != "" {
			if err := os.WriteFile(path, []byte(test.boot+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next := startPager(t, dir, "")
		next.session(t, "a", control.Waiting)
		if h, err := next.Health(ctx); err != nil || h.Status != test.want {
			t.Errorf("boot %q: the next pager is %+v, %v; want it %s", test.boot, h, err, test.want)
		}
		if _, err := os.Stat(path); (err == nil) != (test.want == "draining") {
			t.Errorf("boot %q: %v", test.boot, err)
		}
	}
}

// A pager that died within the writing of its journal has left a file of pages, of which
// none was served.
func TestHalfAJournal(t *testing.T) {
	dir := shortdir.Make(t)
	manifest, model := sealed(t, 64, 1, everyPage)
	p := startPager(t, dir, "")
	s, err := p.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	junk := bytes.Repeat([]byte{0xff}, 1<<20) // all pages were removed, it says
	if err := os.WriteFile(filepath.Join(Dir(dir, Version()), "sessions", "a", pagesFile), junk, 0o600); err != nil {
		t.Fatal(err)
	}
	vmm := startFaulter(t, pagesOf(64))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	p.session(t, "a", control.Serving)
	wantMemory(t, vmm, model)
}
