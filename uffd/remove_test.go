package uffd_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/uffd"
)

// TestRemove follows a removal from its message to the fault that comes after.
func TestRemove(t *testing.T) {
	s := startPages(t, 4)
	content := block(0, 2)
	want(t, s.fd.Copy(s.at(0, 1).Start, content, 0), uffd.OK, 2*page)

	removal := s.StartRemove(0, 2*page)
	readable, _, err := s.fd.Wait(nil, -1)
	check(t, err)
	if !readable {
		t.Fatal("no message of the removal")
	}
	// Until the message is read nothing can be installed, anywhere, but threads
	// can be woken and the old content is there.
	want(t, s.fd.Copy(s.at(3, 1).Start, content[:page], 0), uffd.Again, 0)
	want(t, s.fd.ZeroPage(s.at(3, 1), 0), uffd.Again, 0)
	check(t, s.fd.Wake(s.at(3, 1)))
	got, err := s.Process.Read(0, 2*page)
	check(t, err)
	if !bytes.Equal(got, content) {
		t.Error("memory changed before the message of its removal was read")
	}

	m := s.next(t)
	if m.Event() != uffd.UFFD_EVENT_REMOVE {
		t.Fatalf("message %s; want a removal", &m)
	}
	if start, end := m.Remove(); start != s.at(0, 1).Start || end != s.at(2, 1).Start {
		t.Errorf("removal of %#x-%#x; want %s", start, end, s.at(0, 2))
	}
	s.untilOK(t, func() uffd.Result { return s.fd.Copy(s.at(3, 1).Start, content[:page], 0) })
	_, err = removal.Wait()
	check(t, err)

	call := s.StartRead(page, 1)
	s.fault(t, 1)
	want(t, s.fd.ZeroPage(s.at(1, 1), 0), uffd.OK, page)
	again, err := call.Wait()
	check(t, err)
	if again[0] != 0 {
		t.Errorf("removed page reads %d; want 0", again[0])
	}
}

// untilOK repeats an installation until the thread that removes memory has run
// on, which nothing signals; the test's deadline bounds it.
func (s subject) untilOK(t *testing.T, install func() uffd.Result) {
	t.Helper()
	for {
		r := install()
		if r.Status == uffd.OK {
			return
		}
		if r.Status != uffd.Again || r.Done != 0 {
			t.Fatalf("%v after %d bytes; want %v until it works", r.Status, r.Done, uffd.Again)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// TestFaultsComeBeforeEvents: one read returns page faults first, whatever was
// first in time.
func TestFaultsComeBeforeEvents(t *testing.T) {
	s := startPages(t, 2)
	removal := s.StartRemove(0, page)
	_, _, err := s.fd.Wait(nil, -1)
	check(t, err)
	call := s.StartRead(page, 1)
	s.untilTotal(t, 1)
	var msgs [4]uffd.Message
	n, err := s.fd.Read(msgs[:])
	check(t, err)
	if n != 2 || msgs[0].Event() != uffd.UFFD_EVENT_PAGEFAULT || msgs[1].Event() != uffd.UFFD_EVENT_REMOVE {
		t.Fatalf("read %d messages, %s and %s; want a page fault, then a removal", n, &msgs[0], &msgs[1])
	}
	s.untilOK(t, func() uffd.Result { return s.fd.ZeroPage(s.at(1, 1), 0) })
	_, err = call.Wait()
	check(t, err)
	_, err = removal.Wait()
	check(t, err)
}
