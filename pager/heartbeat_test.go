package pager

import (
	"testing"
	"time"

	"github.com/faultline-vm/faultline/pager/control"
)

// TestWorks pretends that fault loops have been at a batch for long.
func TestWorks(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	h := heartbeat{p: p, limit: time.Minute}
	if !h.works() {
		t.Error("a pager without sessions does not work")
	}
	var loops []*session
	for _, id := range []string{"a", "b"} {
		vmm := startFaulter(t, pagesOf(8))
		attach(t, p, vmm, control.SessionRequest{ID: id, Image: manifest})
		await(t, p, id, control.Serving)
		s, err := p.session(id)
		if err != nil {
			t.Fatal(err)
		}
		loops = append(loops, s)
	}
	hour := time.Now().Add(-time.Hour).UnixNano()
	loops[0].turn.Store(hour)
	if !h.works() {
		t.Error("one loop that hangs speaks for all")
	}
	loops[1].turn.Store(hour)
	if h.works() {
		t.Error("all loops hang, and the pager works")
	}
	loops[1].counters.faults.Add(1)
	if !h.works() {
		t.Error("a loop that is slow counts as one that hangs")
	}
	if h.works() {
		t.Error("it got on once, and counts for ever")
	}
	for _, s := range loops {
		s.turn.Store(0)
	}
	if !h.works() {
		t.Error("loops that wait for faults count as hanging")
	}
}

func TestMemoryGone(t *testing.T) {
	vmm := startFaulter(t, pagesOf(8))
	fd, err := vmm.TakeFD()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	r := vmm.Regions()[0]
	m := &mapping{pageSize: pageSize4K, regions: []region{{start: r.Address, size: r.Size}}}
	if memoryGone(fd, m) {
		t.Error("the memory of a process that lives is gone")
	}
	if err := vmm.Kill(); err != nil {
		t.Fatal(err)
	}
	if !memoryGone(fd, m) {
		t.Error("the memory of a process that is gone is there")
	}
}
