package contract

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/uffd"
)

// testPager serves one VMM's memory from a memory file, as plainly as possible:
// one thread, one page per fault, read from the file when it is needed. It is the
// reference that other pagers are judged against, so it has no cleverness at all.
//
// A page is absent until it was served, and absent again after a REMOVE; what was
// removed is zero from then on. Within the messages of one read, removals are
// applied first, because the kernel hands out faults before events.
type testPager struct {
	t        *testing.T
	socket   string
	listener *net.UnixListener
	memory   *os.File
	arrived  chan struct{} // closed when the handshake has been received
	done     chan struct{} // closed when serving has ended
	stop     *uffd.Event

	// dieAfter makes the pager vanish, with a fault read and unanswered, after
	// so many pages; below zero never. Set before the VMM is started.
	dieAfter int

	// Written before arrived is closed.
	payload []byte
	regions []region
	conn    *net.UnixConn
	fd      *uffd.FD

	mu      sync.Mutex
	served  map[uint64]bool // by offset in memory: served, and not removed since
	removed map[uint64]bool // by offset in memory: removed at least once
	faults  int
	removes int
	failed  error
}

// region is one element of the handshake.
type region struct {
	BaseHostVirtAddr uint64 `json:"base_host_virt_addr"`
	Size             uint64 `json:"size"`
	Offset           uint64 `json:"offset"`
	PageSize         uint64 `json:"page_size"`
	PageSizeKiB      uint64 `json:"page_size_kib"` // also in bytes
}

// servePages starts a pager for the memory file of a capture.
func servePages(t *testing.T, memory string, dieAfter int) *testPager {
	t.Helper()
	p := &testPager{
		t: t, socket: filepath.Join(shortdir.Make(t), "pager.sock"), dieAfter: dieAfter,
		arrived: make(chan struct{}), done: make(chan struct{}),
		served: map[uint64]bool{}, removed: map[uint64]bool{},
	}
	var err error
	if p.memory, err = os.Open(memory); err != nil {
		t.Fatal(err)
	}
	if p.stop, err = uffd.NewEvent(); err != nil {
		t.Fatal(err)
	}
	if p.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: p.socket}); err != nil {
		t.Fatal(err)
	}
	go p.run()
	t.Cleanup(func() {
		p.listener.Close()
		_ = p.stop.Signal()
		<-p.done
		p.memory.Close()
		p.stop.Close()
		p.release()
		if p.failed != nil {
			t.Errorf("pager: %v", p.failed)
		}
	})
	return p
}

// handshake waits for the handshake and returns what came with it.
func (p *testPager) handshake() (payload []byte, regions []region, conn *net.UnixConn) {
	p.t.Helper()
	select {
	case <-p.arrived:
	case <-time.After(patience):
		p.t.Fatal("no handshake came")
	}
	return p.payload, p.regions, p.conn
}

// run receives the handshake and serves until it is stopped.
func (p *testPager) run() {
	defer close(p.done)
	conn, err := p.listener.AcceptUnix()
	if err != nil {
		return // nobody came
	}
	if err := p.receive(conn); err != nil {
		p.fail(fmt.Errorf("handshake: %w", err))
		conn.Close()
		return
	}
	close(p.arrived)
	p.serve()
}

// receive takes the handshake: one message with one descriptor.
func (p *testPager) receive(conn *net.UnixConn) error {
	buf := make([]byte, 64<<10)
	n, fds, err := uffd.ReceiveFDs(conn, buf)
	if err != nil {
		return err
	}
	if len(fds) != 1 {
		uffd.CloseAll(fds)
		return fmt.Errorf("%d descriptors, want one", len(fds))
	}
	if p.fd, err = uffd.NewFD(fds[0]); err != nil {
		return err
	}
	p.conn, p.payload = conn, buf[:n]
	return json.Unmarshal(p.payload, &p.regions)
}

// serve answers faults until it is stopped, dies as planned or fails.
func (p *testPager) serve() {
	messages := make([]uffd.Message, 64)
	var waiting []uint64 // addresses of faults to answer
	for {
		timeout := time.Duration(-1)
		if len(waiting) > 0 {
			timeout = time.Millisecond // EAGAIN is over without notice
		}
		_, stopped, err := p.fd.Wait(p.stop, timeout)
		if err != nil || stopped {
			p.fail(err)
			return
		}
		n, err := p.fd.Read(messages)
		if err != nil {
			p.fail(err)
			return
		}
		for i := range messages[:n] {
			if messages[i].Event() == uffd.UFFD_EVENT_REMOVE {
				p.remove(messages[i].Remove())
			}
		}
		for i := range messages[:n] {
			if messages[i].Event() == uffd.UFFD_EVENT_PAGEFAULT {
				address, _ := messages[i].Pagefault()
				waiting = append(waiting, address)
				p.count(&p.faults)
			}
		}
		for len(waiting) > 0 {
			if p.dieAfter >= 0 && p.pages() >= p.dieAfter {
				p.release()
				return
			}
			again, err := p.answer(waiting[0])
			if err != nil {
				p.fail(err)
				return
			}
			if again {
				break
			}
			waiting = waiting[1:]
		}
	}
}

// answer installs the page of one fault. It returns true if the kernel wants the
// answer later.
func (p *testPager) answer(address uint64) (again bool, err error) {
	r, err := p.regionOf(address)
	if err != nil {
		return false, err
	}
	start := address &^ (r.PageSize - 1)
	offset := r.Offset + start - r.BaseHostVirtAddr
	page := make([]byte, r.PageSize)
	if !p.isRemoved(offset) {
		if _, err := p.memory.ReadAt(page, int64(offset)); err != nil {
			return false, err
		}
	}
	result := p.fd.Copy(start, page, 0)
	switch result.Status {
	case uffd.OK:
		p.mu.Lock()
		p.served[offset] = true
		p.mu.Unlock()
		return false, nil
	case uffd.Exists:
		return false, p.fd.Wake(uffd.Range{Start: start, Len: r.PageSize})
	case uffd.Again:
		return true, nil
	case uffd.Gone:
		return false, nil // the VMM was killed
	default:
		return false, fmt.Errorf("copy to %#x: %w", start, result.Err())
	}
}

func (p *testPager) remove(start, end uint64) {
	p.count(&p.removes)
	for at := start; at < end; {
		r, err := p.regionOf(at)
		if err != nil {
			p.fail(err)
			return
		}
		offset := r.Offset + at - r.BaseHostVirtAddr
		p.mu.Lock()
		p.removed[offset] = true
		delete(p.served, offset)
		p.mu.Unlock()
		at += r.PageSize
	}
}

func (p *testPager) regionOf(address uint64) (region, error) {
	for _, r := range p.regions {
		if address >= r.BaseHostVirtAddr && address-r.BaseHostVirtAddr < r.Size {
			return r, nil
		}
	}
	return region{}, fmt.Errorf("address %#x is in no region", address)
}

// release closes what the VMM gave, as the death of the pager's process would.
func (p *testPager) release() {
	if p.fd != nil {
		p.fd.Close()
	}
	if p.conn != nil {
		p.conn.Close()
	}
}

func (p *testPager) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
}

func (p *testPager) count(counter *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*counter++
}

func (p *testPager) isRemoved(offset uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removed[offset]
}

// hasServed reports whether a page was served, and not removed since.
func (p *testPager) hasServed(offset uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served[offset]
}

// pages is the number of pages served so far, without those removed since.
func (p *testPager) pages() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.served)
}

// faulted is the number of fault messages so far.
func (p *testPager) faulted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

// servedOffsets are the offsets in memory of all pages served, in order.
func (p *testPager) servedOffsets() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var offsets []uint64
	for offset := range p.served {
		offsets = append(offsets, offset)
	}
	slices.Sort(offsets)
	return offsets
}

// removedOffsets are the offsets in memory of all pages removed, in order.
func (p *testPager) removedOffsets() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var offsets []uint64
	for offset := range p.removed {
		offsets = append(offsets, offset)
	}
	slices.Sort(offsets)
	return offsets
}
