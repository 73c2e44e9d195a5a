package uffd_test

import (
	"bytes"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

func hugeConfig(pages uint64) faulter.Config {
	return faulter.Config{Regions: []faulter.Region{{Size: pages * hugepages.Size, PageSize: hugepages.Size}}}
}

func TestHugePages(t *testing.T) {
	hugepages.Reserve(t, 2)
	s := start(t, hugeConfig(2))
	r := s.all(0)
	ioctls, err := s.fd.Register(r, uffd.UFFDIO_REGISTER_MODE_MISSING)
	check(t, err)
	if ioctls.Has(uffd.UFFDIO_ZEROPAGE) || !ioctls.Has(uffd.UFFDIO_COPY) {
		t.Errorf("ioctls %#x of huge pages; want COPY and no ZEROPAGE", uint64(ioctls))
	}

	call := s.StartRead(hugepages.Size+5*page, page)
	m := s.next(t)
	if address, _ := m.Pagefault(); address != r.Start+hugepages.Size {
		t.Errorf("page fault at %#x; want the start of its huge page, %#x", address, r.Start+hugepages.Size)
	}
	second := uffd.Range{Start: r.Start + hugepages.Size, Len: hugepages.Size}
	if got := s.fd.ZeroPage(second, 0); got.Status != uffd.Failed || got.Errno != unix.EINVAL {
		t.Errorf("zero page: %v, %v; want EINVAL", got.Status, got.Errno)
	}
	if got := s.fd.Copy(second.Start, make([]byte, page), 0); got.Status != uffd.Failed || got.Errno != unix.EINVAL {
		t.Errorf("copy of a part of a huge page: %v, %v; want EINVAL", got.Status, got.Errno)
	}
	content := block(9, hugepages.Size/page)
	want(t, s.fd.Copy(second.Start, content, 0), uffd.OK, hugepages.Size)
	got, err := call.Wait()
	check(t, err)
	if !bytes.Equal(got, content[5*page:6*page]) {
		t.Error("huge page differs from what was installed")
	}
}

// TestNoMemory takes both answers that kernels give, see [uffd.Exists].
func TestNoMemory(t *testing.T) {
	hugepages.Reserve(t, 0) // skips where there are no huge pages at all
	if free := hugepages.Free(t); free > 0 {
		t.Skipf("%d huge pages are free; release them to see the pool exhausted", free)
	}
	s := start(t, hugeConfig(1))
	got := s.fd.Copy(s.all(0).Start, make([]byte, hugepages.Size), 0)
	if got.Status == uffd.OK {
		t.Skip("another process enlarged the pool meanwhile; run the test alone")
	}
	if got.Done != 0 || got.Status != uffd.NoMemory && got.Status != uffd.Exists {
		t.Errorf("copy without a huge page: %v after %d bytes; want %v or %v", got.Status, got.Done, uffd.NoMemory, uffd.Exists)
	}
}
