package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func (s suite) testHandshake(t *testing.T) {
	t.Run("OneRegion", s.testOneRegion)
	t.Run("SeveralRegions", s.testSeveralRegions)
	t.Run("HugePages", s.testHugePages)
}

func (s suite) testOneRegion(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")

	pager := servePages(t, c.memory, -1)
	spec := c.fromSocket(pager.socket)
	spec.Resume = false
	m := s.restore(t, shortdir.Make(t), w, spec)
	// The VMM's own devices live in guest memory: whoever is to serve it must do
	// so before the load returns.
	if pager.pages() == 0 {
		t.Error("the VMM touched no page before the load returned")
	}
	requireRegions(t, pager, guest.PageSize, memoryMiB*mebibyte)

	m.resume()
	m.check()
	openMemory(t, c.memory).requirePages(w, func(uint64) bool { return true })
	served := map[uint64]bool{}
	for _, offset := range pager.servedOffsets() {
		served[offset] = true
	}
	for p := range w.Pages {
		if !served[w.Address(p)] {
			t.Fatalf("the guest checked page %d and the pager was never asked for it", p)
		}
	}
	requireOpenAndSilent(t, pager)
}

// requireRegions checks the handshake's payload.
func requireRegions(t *testing.T, pager *testPager, pageSize, memory uint64) {
	t.Helper()
	payload, regions, _ := pager.handshake()
	var elements []map[string]json.Number
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	if err := decoder.Decode(&elements); err != nil {
		t.Fatalf("the handshake is no array of objects of numbers: %v\n%s", err, payload)
	}
	if decoder.InputOffset() != int64(len(payload)) {
		t.Errorf("%d bytes follow the array", int64(len(payload))-decoder.InputOffset())
	}
	for i, e := range elements {
		for _, field := range []string{"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"} {
			if _, found := e[field]; !found {
				t.Errorf("region %d has no %s: %s", i, field, payload)
			}
		}
	}
	offset := uint64(0)
	for i, r := range regions {
		if r.PageSize != pageSize || r.PageSizeKiB != pageSize {
			t.Errorf("region %d has page sizes %d and %d, want %d, both in bytes", i, r.PageSize, r.PageSizeKiB, pageSize)
		}
		if r.Offset != offset {
			t.Errorf("region %d is at offset %#x of the memory file, the regions before it end at %#x", i, r.Offset, offset)
		}
		if r.BaseHostVirtAddr%pageSize != 0 || r.Size%pageSize != 0 || r.Size == 0 {
			t.Errorf("region %d is not a number of whole pages: %+v", i, r)
		}
		for _, other := range regions[:i] {
			if r.BaseHostVirtAddr < other.BaseHostVirtAddr+other.Size && other.BaseHostVirtAddr < r.BaseHostVirtAddr+r.Size {
				t.Errorf("regions overlap: %+v and %+v", r, other)
			}
		}
		offset += r.Size
	}
	if offset != memory {
		t.Errorf("the regions hold %d bytes, the guest %d", offset, memory)
	}
}

// requireOpenAndSilent checks that the VMM keeps the handshake's connection open
// and sends nothing more: its end is how a pager learns that the VMM is gone.
func requireOpenAndSilent(t *testing.T, pager *testPager) {
	t.Helper()
	_, _, conn := pager.handshake()
	if err := conn.SetReadDeadline(time.Now().Add(glance)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if n, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the handshake: %d bytes, error %v; want silence", n, err)
	}
}

// testSeveralRegions restores a guest whose memory has a gap below 4 GiB. Its
// first capture is a Diff: of a guest that was just booted that is all there is,
// and the file stays sparse.
func (s suite) testSeveralRegions(t *testing.T) {
	const memory = 3<<30 + 128<<20
	w := workload()
	source := s.boot(t, w, func(spec *hypervisor.BootSpec) { spec.MemoryMiB = memory / mebibyte })
	source.pause()
	c := source.snapshot(hypervisor.Diff, "base")
	if size := openMemory(t, c.memory).size; size != memory {
		t.Errorf("the memory file has %d bytes, the guest %d", size, uint64(memory))
	}

	pager := servePages(t, c.memory, -1)
	m := s.restore(t, shortdir.Make(t), w, c.fromSocket(pager.socket))
	m.check()
	requireRegions(t, pager, guest.PageSize, memory)
	if _, regions, _ := pager.handshake(); len(regions) != 2 || regions[0].Size != 3<<30 {
		t.Errorf("regions %+v, want one of 3 GiB and one of the rest", regions)
	}
}

func (s suite) testHugePages(t *testing.T) {
	// Two guests at most at a time.
	hugepages.Reserve(t, 2*memoryMiB/2)
	w := workload()
	source := s.boot(t, w, func(spec *hypervisor.BootSpec) { spec.HugePages = hypervisor.Huge2M })
	source.write()
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")
	openMemory(t, c.memory).requirePages(w, func(uint64) bool { return true })

	pager := servePages(t, c.memory, -1)
	m := s.restore(t, shortdir.Make(t), w, c.fromSocket(pager.socket))
	m.check()
	requireRegions(t, pager, hugepages.Size, memoryMiB*mebibyte)
	// Mapping a file cannot give huge pages.
	if err := source.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	s.requireFailedLoad(t, shortdir.Make(t), c.fromFile())
}
