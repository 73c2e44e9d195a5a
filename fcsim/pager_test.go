package fcsim

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/uffd"
)

// pager is a page fault handler of the simplest kind: it serves one guest from a
// memory file, one fault after the other.
type pager struct {
	t        *testing.T
	path     string // of its socket
	memory   *os.File
	listener *net.UnixListener

	ready    chan struct{} // closed once the handshake is over
	ended    chan struct{} // closed when it serves no more
	wake     *uffd.Event
	mappings []mapping
	faults   atomic.Int64
	removed  atomic.Int64 // bytes
	repeated atomic.Int64 // faults that were queued again while they waited
	lag      atomic.Int64 // nanoseconds before a fault is answered
}

// startPager listens and serves until the test ends or stop is called.
func startPager(t *testing.T, memory string) *pager {
	t.Helper()
	fd, _, err := uffd.OpenBest()
	if err != nil {
		t.Skipf("%v", err)
	}
	_ = fd.Close()
	p := &pager{t: t, path: filepath.Join(shortdir.Make(t), "pager.sock"), ready: make(chan struct{}), ended: make(chan struct{})}
	if p.memory, err = os.Open(memory); err != nil {
		t.Fatal(err)
	}
	if p.listener, err = listenUnix(p.path); err != nil {
		t.Fatal(err)
	}
	if p.wake, err = uffd.NewEvent(); err != nil {
		t.Fatal(err)
	}
	go p.run()
	t.Cleanup(func() {
		p.stop()
		_ = p.memory.Close()
		_ = p.wake.Close()
	})
	return p
}

// stop makes the pager disappear with everything it holds.
func (p *pager) stop() {
	_ = p.listener.Close()
	_ = p.wake.Signal()
	<-p.ended
}

func (p *pager) run() {
	defer close(p.ended)
	conn, err := p.listener.AcceptUnix()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 4096)
	n, fds, err := uffd.ReceiveFDs(conn, buf)
	if err != nil || len(fds) != 1 {
		p.t.Errorf("handshake with %d descriptors: %v", len(fds), err)
		return
	}
	if err := json.Unmarshal(buf[:n], &p.mappings); err != nil {
		p.t.Errorf("handshake %q: %v", buf[:n], err)
		return
	}
	fd, err := uffd.NewFD(fds[0])
	if err != nil {
		p.t.Error(err)
		return
	}
	defer func() { _ = fd.Close() }()
	close(p.ready)
	if err := p.serve(fd); err != nil {
		p.t.Error(err)
	}
}

// serve applies the REMOVEs of a read before its faults; pages that were removed
// are zero from then on.
func (p *pager) serve(fd *uffd.FD) error {
	gone := map[uint64]bool{}
	messages, scratch := make([]uffd.Message, 64), make([]uffd.Message, 64)
	page := make([]byte, p.mappings[0].PageSize)
	zeros := make([]byte, len(page))
	for {
		_, woken, err := fd.Wait(p.wake, -1)
		if woken || err != nil {
			return err
		}
		n, err := fd.Read(messages)
		if err != nil {
			return err
		}
		for i := range messages[:n] {
			if messages[i].Event() == uffd.UFFD_EVENT_REMOVE {
				start, end := messages[i].Remove()
				p.removed.Add(int64(end - start))
				for ; start < end; start += uint64(len(page)) {
					gone[start] = true
				}
			}
		}
		for i := range messages[:n] {
			if messages[i].Event() != uffd.UFFD_EVENT_PAGEFAULT {
				continue
			}
			p.faults.Add(1)
			at, _ := messages[i].Pagefault()
			if lag := time.Duration(p.lag.Load()); lag > 0 {
				time.Sleep(lag)
				// With one vCPU, whatever has come meanwhile is this fault again.
				again, err := fd.Read(scratch)
				if err != nil {
					return err
				}
				p.repeated.Add(int64(again))
			}
			source := zeros
			if !gone[at] {
				source = page
				if _, err := p.memory.ReadAt(page, p.offset(at)); err != nil {
					return err
				}
			}
			if err := install(fd, at, source); err != nil {
				return err
			}
		}
	}
}

func install(fd *uffd.FD, at uint64, source []byte) error {
	for {
		switch r := fd.Copy(at, source, 0); r.Status {
		case uffd.OK, uffd.Gone:
			return nil
		case uffd.Again:
		case uffd.Exists:
			return fd.Wake(uffd.Range{Start: at, Len: uint64(len(source))})
		default:
			return errors.Join(errors.New("install a page"), r.Err())
		}
	}
}

// offset is where the memory file has the page at a host virtual address.
func (p *pager) offset(address uint64) int64 {
	at := slices.IndexFunc(p.mappings, func(m mapping) bool { return address-m.BaseHostVirtAddr < m.Size })
	m := p.mappings[at]
	return int64(address - m.BaseHostVirtAddr + m.Offset)
}
