package pager

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/control"
)

// A detach that gets no huge page must not pass for done: the kernel would give the
// guest zeros, or a SIGBUS, for what is absent.
func TestDetachWithoutHugePages(t *testing.T) {
	const pages = 3
	hugepages.Reserve(t, 1)
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, pages*512, 1, everyPage)
	vmm := startFaulter(t, faulter.Region{Size: pages * pageSize2M, PageSize: pageSize2M})
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := p.Detach(ctx, "a")
	if err == nil {
		t.Log("somebody else's huge pages were free")
	} else {
		await(t, p, "a", control.Serving)
		hugepages.Reserve(t, pages)
		if _, err := p.Detach(context.Background(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	await(t, p, "a", control.Ended)
	wantMemory(t, vmm, content)
}

// What is not installed because the session is being handed over is not populated: the
// session may stay.
func TestPopulateWhileReleased(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	await(t, p, "a", control.Serving)
	s, err := p.session("a")
	if err != nil {
		t.Fatal(err)
	}
	s.setReleased(true)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.populate(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("populating a session that is released gave %v", err)
	}
	s.setReleased(false)
	if _, err := p.Detach(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, vmm, content)
}

// A session that is handed over while it is being detached is not detached.
func TestHandoverWithinADetach(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	next := newVersion(t, p, "9.9.9")
	manifest, content := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	s := create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	reading, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	withReader(t, p, "a", func(int64) error {
		once.Do(func() { close(reading) })
		<-goOn
		return nil
	})
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	await(t, p, "a", control.Serving)
	detached := make(chan error, 1)
	go func() {
		_, err := p.Detach(context.Background(), "a")
		detached <- err
	}()
	<-reading
	h, err := p.Handover(context.Background(), control.HandoverRequest{To: next.dir})
	if err != nil || h.HandedOver != 1 {
		t.Errorf("the handover gave %+v, %v", h, err)
	}
	close(goOn)
	if err := <-detached; !errors.Is(err, &problem.Problem{Code: "not_detached"}) {
		t.Errorf("the detach gave %v", err)
	}
	await(t, next, "a", control.Serving)
	wantMemory(t, vmm, content)
}
