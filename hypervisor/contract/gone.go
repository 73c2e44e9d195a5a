package contract

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/uffd"
)

// testPagerGone takes the pager away from a guest that is still loading.
func (s suite) testPagerGone(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")

	// The pager dies with one fault read and unanswered: the worst moment.
	orphan := func(t *testing.T) (*machine, *testPager) {
		t.Helper()
		pager := servePages(t, c.memory, int(w.Pages)/2)
		m := s.restore(t, shortdir.Make(t), w, c.fromSocket(pager.socket))
		m.send(guest.CommandCheck)
		select {
		case <-pager.done:
		case <-time.After(patience):
			t.Fatal("the guest did not load its pages")
		}
		return m, pager
	}

	t.Run("Freeze", func(t *testing.T) {
		m, _ := orphan(t)
		m.requireSilence()
		// Frozen is neither dead nor deaf: the API answers, the vCPU waits.
		m.requireState(hypervisor.Running)
		if waiting := waitingFaults(t, m.Ref().PID); waiting == 0 {
			t.Error("the guest is silent, and nobody waits for a page")
		}
		if err := m.Kill(within(t)); err != nil {
			t.Fatal(err)
		}
		if want := (hypervisor.ExitState{Known: true, Signal: unix.SIGKILL}); m.ExitState() != want {
			t.Errorf("a frozen VMM that was killed: %v", m.ExitState())
		}
	})

	t.Run("Adopt", func(t *testing.T) {
		m, dead := orphan(t)
		m.requireSilence()
		adopted := adopt(t, m, dead)
		report := m.expect(guest.Check)
		if report.Bad != 0 || report.Pages != w.Pages {
			t.Fatalf("after adoption the guest found wrong pages: %v", report)
		}
		m.write()
		m.check()
		if adopted.pages() == 0 {
			t.Error("the second pager was not asked for anything")
		}
	})

	t.Run("CancelledLoad", func(t *testing.T) {
		// A pager that takes the handshake and serves nothing: the load hangs
		// in a page fault, which only SIGKILL ends.
		pager := servePages(t, c.memory, 0)
		ctx, cancel := context.WithCancel(within(t))
		go func() {
			<-pager.done
			time.Sleep(glance)
			cancel()
		}()
		spec := c.fromSocket(pager.socket)
		spec.Process = hypervisor.Process{Dir: shortdir.Make(t)}
		vmm, err := s.driver().Restore(ctx, spec)
		if err == nil {
			vmm.Kill(within(t))
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a load without a pager: error %v, want context.Canceled", err)
		}
	})

	t.Run("ConnectionEndsWithTheVMM", func(t *testing.T) {
		pager := servePages(t, c.memory, -1)
		m := s.restore(t, shortdir.Make(t), w, c.fromSocket(pager.socket))
		m.check()
		requireOpenAndSilent(t, pager)
		if err := m.Kill(within(t)); err != nil {
			t.Fatal(err)
		}
		_, _, conn := pager.handshake()
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the VMM's end its connection gave %d bytes, error %v; want the end", n, err)
		}
	})
}

// adopt starts a second pager on the userfaultfd that the VMM still holds.
func adopt(t *testing.T, m *machine, dead *testPager) *testPager {
	t.Helper()
	numbers, err := uffd.Find(m.Ref().PID)
	if err != nil || len(numbers) != 1 {
		t.Fatalf("userfaultfds of the VMM: %v, error %v; want one", numbers, err)
	}
	vmm, err := pidfd.Open(m.Ref().PID)
	if err != nil {
		t.Fatal(err)
	}
	defer vmm.Close()
	var fd *uffd.FD
	err = vmm.Use(func(raw int) (err error) {
		fd, err = uffd.Adopt(raw, numbers[0])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := uffd.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	p := &testPager{
		t: t, memory: dead.memory, fd: fd, regions: dead.regions, stop: stop, dieAfter: -1,
		done: make(chan struct{}), served: map[uint64]bool{}, removed: map[uint64]bool{},
	}
	// A fault that the dead pager had read comes again when it is woken.
	for _, r := range p.regions {
		if err := fd.Wake(uffd.Range{Start: r.BaseHostVirtAddr, Len: r.Size}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		defer close(p.done)
		p.serve()
	}()
	t.Cleanup(func() {
		_ = stop.Signal()
		<-p.done
		fd.Close()
		stop.Close()
		if p.failed != nil {
			t.Errorf("second pager: %v", p.failed)
		}
	})
	return p
}

// waitingFaults asks the kernel how many threads of a VMM wait for a page.
func waitingFaults(t *testing.T, pid int) uint64 {
	t.Helper()
	numbers, err := uffd.Find(pid)
	if err != nil || len(numbers) != 1 {
		t.Fatalf("userfaultfds of the VMM: %v, error %v; want one", numbers, err)
	}
	info, err := uffd.InfoOf(pid, numbers[0])
	if err != nil {
		t.Fatal(err)
	}
	return info.Total
}
