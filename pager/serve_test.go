package pager

import (
	"bytes"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

func TestServesEveryPageOfAllRegions(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 600, 1, evenPages)
	vmm := startFaulter(t, pagesOf(100), pagesOf(499), pagesOf(1))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	wantMemory(t, vmm, content)

	s, err := p.Session("a")
	if err != nil {
		t.Fatal(err)
	}
	if s.State != control.Serving || s.VMMPID != vmm.Pid() || s.Regions != 3 || s.PageSize != 4096 || s.Memory != 600*4096 {
		t.Errorf("session is described as %+v", s)
	}
	st := s.Stats
	if st.CopiedPages != 300 || st.ZeroPages != 300 || st.Faults < 600 || st.Latency.Count < 600 {
		t.Errorf("300 data and 300 zero pages were counted as %+v", st)
	}
	if st.ReadBytes != 300*4096 {
		t.Errorf("%d bytes were read for 300 pages", st.ReadBytes)
	}
}

func TestWritesStayInTheGuest(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	first, second := startFaulter(t, pagesOf(8)), startFaulter(t, pagesOf(8))
	attach(t, p, first, control.SessionRequest{ID: "a", Image: manifest})
	if err := first.Write(4096+100, []byte("written by the first guest")); err != nil {
		t.Fatal(err)
	}
	attach(t, p, second, control.SessionRequest{ID: "b", Image: manifest})
	wantMemory(t, second, content)
	copy(content[4096+100:], "written by the first guest")
	wantMemory(t, first, content)
}

func TestSessionsOfOneImageShareCachedPages(t *testing.T) {
	p := newTestPager(t, 16<<20)
	manifest, content := sealed(t, 256, 1, everyPage)
	for _, id := range []string{"a", "b", "c"} {
		vmm := startFaulter(t, pagesOf(256))
		attach(t, p, vmm, control.SessionRequest{ID: id, Image: manifest})
		wantMemory(t, vmm, content)
	}
	st := p.Stats()
	if st.Total.ReadBytes != 256*4096 {
		t.Errorf("three guests made the pager read %d bytes instead of %d once", st.Total.ReadBytes, 256*4096)
	}
	if st.Cache.Hits < 512 || st.Cache.UsedBytes != 256*4096 {
		t.Errorf("cache: %+v", st.Cache)
	}
}

func TestCacheSmallerThanTheImage(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 1024, 1, everyPage) // 4 MiB
	for _, id := range []string{"a", "b"} {
		vmm := startFaulter(t, pagesOf(1024))
		attach(t, p, vmm, control.SessionRequest{ID: id, Image: manifest})
		wantMemory(t, vmm, content)
	}
	if st := p.Stats().Cache; st.UsedBytes > MinCacheBytes || st.Evictions == 0 {
		t.Errorf("cache went beyond its bound: %+v", st)
	}
}

func TestRemovedPagesReadAsZeros(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 64, 1, everyPage)
	vmm := startFaulter(t, pagesOf(40), pagesOf(24))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	remove := func(from, to int) {
		t.Helper()
		if err := vmm.Remove(uint64(from)*4096, uint64(to-from)*4096); err != nil {
			t.Fatal(err)
		}
		clear(content[from*4096 : to*4096])
	}
	remove(3, 7) // never touched
	if _, err := vmm.Read(8*4096, 8*4096); err != nil {
		t.Fatal(err)
	}
	remove(10, 13) // present
	remove(41, 42) // in the second region
	wantMemory(t, vmm, content)
	remove(3, 4) // once more
	if err := vmm.Write(4*4096, []byte("alive")); err != nil {
		t.Fatal(err)
	}
	copy(content[4*4096:], "alive")
	wantMemory(t, vmm, content)
	if st := p.Stats().Total; st.RemovedPages < 8 || st.Removes < 4 {
		t.Errorf("8 removed pages of 4 removals were counted as %+v", st)
	}
}

func TestOverlayPages(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 16, 1, evenPages)
	overlay := []byte("fork 7")
	vmm := startFaulter(t, pagesOf(16))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest, Overlays: []control.Overlay{
		{Offset: 2 * 4096, Data: overlay}, {Offset: 5 * 4096, Data: bytes.Repeat([]byte{9}, 4096)},
	}})
	clear(content[2*4096 : 3*4096]) // an overlay replaces the whole page
	copy(content[2*4096:], overlay)
	copy(content[5*4096:], bytes.Repeat([]byte{9}, 4096))
	wantMemory(t, vmm, content)
	if err := vmm.Remove(2*4096, 4096); err != nil {
		t.Fatal(err)
	}
	clear(content[2*4096 : 3*4096]) // what the guest gave away is zeros, overlay or not
	wantMemory(t, vmm, content)
}

func TestHugePages(t *testing.T) {
	const pages = 5 * 512
	hugepages.Reserve(t, 5)
	p := newTestPager(t, MinCacheBytes)
	// Huge page 1 is zeros throughout, 2 is mixed, 4 gets an overlay.
	manifest, content := sealed(t, pages, 1, func(page int) bool {
		return page/512 == 0 || page/512 == 2 && page%3 == 0 || page/512 == 3
	})
	vmm := startFaulter(t, faulter.Region{Size: 3 * pageSize2M, PageSize: pageSize2M}, faulter.Region{Size: 2 * pageSize2M, PageSize: pageSize2M})
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest, Overlays: []control.Overlay{{Offset: 4*pageSize2M + 4096, Data: []byte("overlay")}}})
	copy(content[4*pageSize2M+4096:], "overlay")
	wantMemory(t, vmm, content)
	if err := vmm.Remove(0, pageSize2M); err != nil {
		t.Fatal(err)
	}
	clear(content[:pageSize2M])
	wantMemory(t, vmm, content)
	s, err := p.Session("a")
	if err != nil {
		t.Fatal(err)
	}
	if s.PageSize != pageSize2M || s.Stats.CopiedPages != 3 || s.Stats.ZeroPages != 1 || s.Stats.OverlayPages != 1 || s.Stats.RemovedPages != 1 {
		t.Errorf("huge pages were counted as %+v", s)
	}
}

// With an empty pool of huge pages the kernel answers EEXIST, and waking alone would
// make guest and pager go round for ever.
func TestEchoesOfAHugePage(t *testing.T) {
	var e echoes
	early := time.Now()
	for range 2 * echoRun {
		if !e.again(1, early).IsZero() || !e.again(2, early).IsZero() {
			t.Fatal("faults of one moment were taken for echoes")
		}
	}
	for n := 1; n < echoRun; n++ {
		if !e.again(1, time.Now()).IsZero() {
			t.Fatalf("after %d wakes a fault was taken for an echo", n)
		}
	}
	if e.again(1, time.Now()).Before(early) {
		t.Error("a page that is there again and again was not taken for an echo")
	}
	s := &session{mapping: &mapping{pageSize: pageSize2M}}
	res := uffd.Result{Status: uffd.Exists}
	if out, err := s.outOfMemory(task{}, time.Now(), res); out != refused || err != nil {
		t.Errorf("an install that lacks memory was not repeated: %v, %v", out, err)
	}
	if _, err := s.outOfMemory(task{}, time.Now().Add(-memoryPatience), res); err == nil {
		t.Error("an install that lacks memory is repeated for ever")
	}
}

// Many threads that wait for one huge page make a message each, and find it there but
// for the first. That is no lack of memory.
func TestManyThreadsOnOneHugePage(t *testing.T) {
	const threads = 16
	hugepages.Reserve(t, 1)
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 512, 1, everyPage)
	vmm := startFaulter(t, faulter.Region{Size: pageSize2M, PageSize: pageSize2M})
	create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	read := make(chan struct{})
	withReader(t, p, "a", func(int64) error { <-read; return nil })
	if err := vmm.Handshake(p.Sessions().Sessions[0].Socket); err != nil {
		t.Fatal(err)
	}
	var touches []*faulter.Call[[]time.Duration]
	for thread := range threads {
		touches = append(touches, vmm.StartTouch(thread, []uint64{uint64(thread) * control.PageSize}, false))
	}
	for p.Sessions().Sessions[0].Stats.Faults < threads {
		time.Sleep(time.Millisecond)
	}
	close(read)
	for _, touch := range touches {
		if _, err := touch.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.session("a")
	if err != nil {
		t.Fatal(err)
	}
	for s.serves() && s.oldestFault() > 0 {
		time.Sleep(time.Millisecond)
	}
	if d := s.describe(); d.State != control.Serving {
		t.Errorf("the session %s: %s", d.State, d.Reason)
	}
	wantMemory(t, vmm, content)
}
