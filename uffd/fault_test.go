package uffd_test

import (
	"bytes"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

func TestReadTakesAllMessages(t *testing.T) {
	const threads = 8
	s := startPages(t, threads)
	for i := range threads {
		s.StartTouch(i, []uint64{uint64(i) * page}, i%2 == 1)
	}
	s.untilTotal(t, threads)

	msgs := make([]uffd.Message, threads+1)
	n, err := s.fd.Read(msgs)
	check(t, err)
	if n != threads {
		t.Fatalf("one read returned %d messages; want %d", n, threads)
	}
	seen := map[uint64]uffd.PagefaultFlags{}
	for i := range msgs[:n] {
		address, flags := msgs[i].Pagefault()
		seen[address] = flags
	}
	for i := range uint64(threads) {
		flags, ok := seen[s.at(i, 1).Start]
		if wantFlags := uffd.UFFD_PAGEFAULT_FLAG_WRITE * uffd.PagefaultFlags(i%2); !ok || flags != wantFlags {
			t.Errorf("page %d: message %v, flags %#x; want flags %#x", i, ok, flags, wantFlags)
		}
	}
	if n, err := s.fd.Read(msgs); n != 0 || err != nil {
		t.Errorf("second read = %d, %v; want nothing", n, err)
	}
	s.wantInfo(t, 0, threads)
}

func TestCopyWakesAllWaiters(t *testing.T) {
	s := startPages(t, 2)
	calls := []*faulter.Call[[]byte]{s.StartRead(page, 1), s.StartRead(page+1, 1), s.StartRead(page+2, 1)}
	s.untilTotal(t, 3)
	for range calls {
		s.fault(t, 1) // a message for each thread
	}
	content := block(1, 1)
	want(t, s.fd.Copy(s.at(1, 1).Start, content, 0), uffd.OK, page)
	for i, call := range calls {
		got, err := call.Wait()
		check(t, err)
		if got[0] != content[i] {
			t.Errorf("thread %d read %d; want %d", i, got[0], content[i])
		}
	}
	s.wantInfo(t, 0, 0)
}

// TestExistsDoesNotWake leaves a thread waiting for a page that is there, as
// happens when two handlers answer.
func TestExistsDoesNotWake(t *testing.T) {
	s := startPages(t, 1)
	call := s.StartRead(0, 1)
	s.fault(t, 0)
	start, content := s.at(0, 1).Start, block(0, 1)
	want(t, s.fd.Copy(start, content, uffd.UFFDIO_COPY_MODE_DONTWAKE), uffd.OK, page)
	want(t, s.fd.Copy(start, content, 0), uffd.Exists, 0)
	want(t, s.fd.ZeroPage(s.at(0, 1), 0), uffd.Exists, 0)
	s.wantInfo(t, 0, 1)
	check(t, s.fd.Wake(s.at(0, 1)))
	got, err := call.Wait()
	check(t, err)
	if got[0] != content[0] {
		t.Errorf("read %d; want %d", got[0], content[0])
	}
}

func TestPartialCopy(t *testing.T) {
	s := startPages(t, 8)
	content := block(0, 8)
	start := s.at(0, 1).Start
	want(t, s.fd.Copy(start+3*page, content[3*page:4*page], 0), uffd.OK, page)
	want(t, s.fd.Copy(start, content, 0), uffd.Partial, 3*page)
	want(t, s.fd.Copy(start+3*page, content[3*page:], 0), uffd.Exists, 0)
	want(t, s.fd.Copy(start+4*page, content[4*page:], 0), uffd.OK, 4*page)
	got, err := s.Process.Read(0, 8*page)
	check(t, err)
	if !bytes.Equal(got, content) {
		t.Error("memory differs from what was installed")
	}
}

func TestPartialZeroPage(t *testing.T) {
	s := startPages(t, 4)
	want(t, s.fd.ZeroPage(s.at(2, 1), 0), uffd.OK, page)
	want(t, s.fd.ZeroPage(s.at(0, 4), 0), uffd.Partial, 2*page)
	want(t, s.fd.ZeroPage(s.at(3, 1), 0), uffd.OK, page)
}

// TestZeroPageIsWritable: the first write to the shared zero page is the kernel's
// business alone.
func TestZeroPageIsWritable(t *testing.T) {
	s := startPages(t, 1)
	call := s.StartRead(0, page)
	s.fault(t, 0)
	want(t, s.fd.ZeroPage(s.at(0, 1), 0), uffd.OK, page)
	got, err := call.Wait()
	check(t, err)
	if !bytes.Equal(got, make([]byte, page)) {
		t.Error("zero page is not zero")
	}
	check(t, s.Write(17, []byte{42})) // nobody would answer a fault
	if n, err := s.fd.Read(make([]uffd.Message, 1)); n != 0 || err != nil {
		t.Errorf("%d messages, %v; want none", n, err)
	}
}

func TestNotRegistered(t *testing.T) {
	s := start(t, faulter.Config{Regions: []faulter.Region{{Size: 2 * page}, {Size: 2 * page}}})
	r := s.all(0)
	for name, at := range map[string]uffd.Range{
		"across the end": {Start: r.End() - page, Len: 2 * page},
		"behind the end": {Start: r.End(), Len: page},
		"before":         {Start: r.Start - page, Len: page},
	} {
		if got := s.fd.Copy(at.Start, make([]byte, at.Len), 0); got.Status != uffd.NotRegistered || got.Done != 0 {
			t.Errorf("copy %s: %v after %d bytes; want %v", name, got.Status, got.Done, uffd.NotRegistered)
		}
		if got := s.fd.ZeroPage(at, 0); got.Status == uffd.OK || got.Done != 0 {
			t.Errorf("zero pages %s: %v after %d bytes; want a refusal", name, got.Status, got.Done)
		}
	}
	want(t, s.fd.Copy(r.End()-page, make([]byte, page), 0), uffd.OK, page)
	want(t, s.fd.Copy(s.all(1).Start, make([]byte, 2*page), 0), uffd.OK, 2*page)
}

func TestUnaligned(t *testing.T) {
	s := startPages(t, 2)
	start := s.at(0, 1).Start
	for name, got := range map[string]uffd.Result{
		"destination": s.fd.Copy(start+1, make([]byte, page), 0),
		"length":      s.fd.Copy(start, make([]byte, page-1), 0),
		"empty":       s.fd.Copy(start, nil, 0),
		"mode":        s.fd.Copy(start, make([]byte, page), 1<<40),
	} {
		if got.Status != uffd.Failed || got.Errno != unix.EINVAL || got.Done != 0 {
			t.Errorf("bad %s: %v, %v after %d bytes; want EINVAL", name, got.Status, got.Errno, got.Done)
		}
	}
	// The source may begin anywhere.
	want(t, s.fd.Copy(start, make([]byte, 2*page)[123:123+page], 0), uffd.OK, page)
}

func TestGone(t *testing.T) {
	s := startPages(t, 2)
	s.StartRead(0, 1)
	s.untilTotal(t, 1)
	check(t, s.Kill())
	want(t, s.fd.Copy(s.at(1, 1).Start, make([]byte, page), 0), uffd.Gone, 0)
	want(t, s.fd.ZeroPage(s.at(1, 1), 0), uffd.Gone, 0)
	check(t, s.fd.Wake(s.all(0)))
	if n, err := s.fd.Read(make([]uffd.Message, 1)); n != 0 || err != nil {
		t.Errorf("read = %d, %v; want nothing", n, err)
	}
	if readable, _, err := s.fd.Wait(nil, 0); readable || err != nil {
		t.Errorf("wait = %v, %v; want nothing", readable, err)
	}
	if err := s.fd.Unregister(s.all(0)); err == nil {
		t.Error("unregister succeeded without a process")
	}
}

func TestUnregisterWakesIntoZeros(t *testing.T) {
	s := startPages(t, 2)
	call := s.StartRead(0, 2*page)
	s.fault(t, 0)
	check(t, s.fd.Unregister(s.all(0)))
	got, err := call.Wait()
	check(t, err)
	if !bytes.Equal(got, make([]byte, 2*page)) {
		t.Error("unregistered memory is not zero")
	}
	if got := s.fd.Copy(s.at(1, 1).Start, make([]byte, page), 0); got.Status != uffd.NotRegistered {
		t.Errorf("copy into unregistered memory: %v; want %v", got.Status, uffd.NotRegistered)
	}
}

func TestLastCloseZeroes(t *testing.T) {
	s := startPages(t, 1)
	second, err := s.fd.Duplicate()
	check(t, err)
	closeLater(t, second)
	call := s.StartRead(0, 1)
	s.fault(t, 0)
	check(t, s.CloseFD())
	check(t, s.fd.Close())
	if info, err := second.Info(); err != nil || info.Total != 1 {
		t.Fatalf("%+v, %v; want the thread to wait on while a descriptor is left", info, err)
	}
	check(t, second.Close())
	got, err := call.Wait()
	check(t, err)
	if got[0] != 0 {
		t.Errorf("read %d after the last descriptor was closed; want 0", got[0])
	}
}

func TestInfo(t *testing.T) {
	s := startPages(t, 1)
	s.wantInfo(t, 0, 0)
	call := s.StartRead(0, 1)
	s.untilTotal(t, 1)
	s.wantInfo(t, 1, 1)
	s.fault(t, 0)
	s.wantInfo(t, 0, 1)
	want(t, s.fd.Copy(s.at(0, 1).Start, make([]byte, page), 0), uffd.OK, page)
	s.wantInfo(t, 0, 0)
	_, err := call.Wait()
	check(t, err)

	info, err := s.fd.Info()
	check(t, err)
	if info.Features != uffd.UFFD_FEATURE_EVENT_REMOVE {
		t.Errorf("features %s; want what the child asked for", info.Features)
	}
	numbers, err := uffd.Find(s.Pid())
	check(t, err)
	if len(numbers) != 1 {
		t.Fatalf("child has userfaultfds %v; want one", numbers)
	}
	other, err := uffd.InfoOf(s.Pid(), numbers[0])
	if err != nil || other != info {
		t.Errorf("InfoOf the child = %+v, %v; want %+v", other, err, info)
	}
}
