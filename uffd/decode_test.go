package uffd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const sampleInfo = "pos:\t0\nflags:\t02004002\nmnt_id:\t15\nino:\t1057\npending:\t1\ntotal:\t3\nAPI:\taa:80000008:800000000000000f\n"

func TestParseInfo(t *testing.T) {
	got, err := parseInfo(sampleInfo)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Info{Pending: 1, Total: 3, Features: UFFD_FEATURE_EVENT_REMOVE}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{
		"",
		"pos:\t0\n",
		"pending:\t1\ntotal:\t1\n",
		"pending:\t-1\ntotal:\t1\nAPI:\taa:8:1\n",
		"pending:\t1\npending:\t1\ntotal:\t1\nAPI:\taa:8:1\n",
		"pending:\t1\ntotal:\t1\nAPI:\taa:8\n",
		"pending:\t1\ntotal:\t1\nAPI:\taa:x:1\n",
	} {
		if got, err := parseInfo(bad); err == nil {
			t.Errorf("parseInfo(%q) = %+v; want an error", bad, got)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(sampleInfo)
	f.Add("pending:\t18446744073709551615\ntotal: 0\nAPI:\taa:0:0")
	f.Add("API:::\n")
	f.Fuzz(func(t *testing.T, text string) {
		info, err := parseInfo(text)
		if err != nil {
			if info != (Info{}) {
				t.Errorf("%+v with error %v", info, err)
			}
			return
		}
		again, err := parseInfo(fmt.Sprintf("pending:\t%d\ntotal:\t%d\nAPI:\taa:%x:0\n", info.Pending, info.Total, uint64(info.Features)))
		if err != nil || again != info {
			t.Errorf("%+v written and read again is %+v, %v", info, again, err)
		}
	})
}

func FuzzParseRights(f *testing.F) {
	f.Add(unix.UnixRights(3))
	f.Add(append(unix.UnixRights(3, 4, 5), unix.UnixRights(6)...))
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1}))
	f.Add([]byte{1, 2, 3})
	// A list of descriptors that is shorter than one of them.
	f.Add([]byte("\x13\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00000"))
	f.Fuzz(func(t *testing.T, control []byte) {
		fds, _ := parseRights(control) // never opened, so never closed
		if len(fds)*4 > len(control) {
			t.Errorf("%d descriptors in %d bytes", len(fds), len(control))
		}
	})
}

func TestParseRights(t *testing.T) {
	control := append(unix.UnixCredentials(&unix.Ucred{}), unix.UnixRights(7, 8)...)
	got, err := parseRights(append(control, unix.UnixRights(9)...))
	if err != nil || !cmp.Equal(got, []int{7, 8, 9}) {
		t.Errorf("parseRights = %v, %v; want 7, 8, 9", got, err)
	}
}

func FuzzParseProcess(f *testing.F) {
	f.Add("CapEff:\t0000000000080000\nSeccomp:\t2\n", "0 0 4294967295\n", "1\n")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, status, uidMap, sysctl string) {
		p := parseProcess(status, uidMap, sysctl)
		if p.ptrace && uidMap == "" {
			t.Error("a capability outside the initial user namespace counts")
		}
	})
}

func TestParseProcess(t *testing.T) {
	const initial = "         0          0 4294967295\n"
	for name, c := range map[string]struct {
		status, uidMap, sysctl string
		want                   process
	}{
		"nothing":   {"CapEff:\t0\nSeccomp:\t0\n", initial, "0\n", process{}},
		"all":       {"CapEff:\t000001ffffffffff\nSeccomp:\t2\n", initial, "1\n", process{true, true, true}},
		"ptrace":    {"CapEff:\t0000000000080000\n", initial, "0\n", process{ptrace: true}},
		"namespace": {"CapEff:\t0000000000080000\n", "0 1000 1\n", "0\n", process{}},
	} {
		if diff := cmp.Diff(c.want, parseProcess(c.status, c.uidMap, c.sysctl), cmp.AllowUnexported(process{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMessage(t *testing.T) {
	var m Message
	m.msg = uffdMsg{event: UFFD_EVENT_PAGEFAULT, arg: [3]uint64{1, 0x7000, 1<<32 | 99}}
	if address, flags := m.Pagefault(); address != 0x7000 || flags != UFFD_PAGEFAULT_FLAG_WRITE || m.ThreadID() != 99 {
		t.Errorf("page fault at %#x, flags %#x, thread %d", address, flags, m.ThreadID())
	}
	for want, m := range map[string]Message{
		"pagefault at 0x2000, flags 0x1": PagefaultMessage(0x2000, UFFD_PAGEFAULT_FLAG_WRITE),
		"remove of 0x1000-0x3000":        RemoveMessage(0x1000, 0x3000),
		"event 0x0":                      {},
	} {
		if got := m.String(); got != want {
			t.Errorf("message %q; want %q", got, want)
		}
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Error("ThreadID is wrong on a big-endian machine")
	}
}

func TestResult(t *testing.T) {
	const length = 8 * 4096
	for _, c := range []struct {
		errno unix.Errno
		done  int64
		want  Result
	}{
		{0, length, Result{Done: length}},
		{unix.EAGAIN, 0, Result{Status: Again, Errno: unix.EAGAIN}},
		{unix.EAGAIN, -int64(unix.EAGAIN), Result{Status: Again, Errno: unix.EAGAIN}},
		{unix.EAGAIN, 3 * 4096, Result{Done: 3 * 4096, Status: Partial, Errno: unix.EAGAIN}},
		{unix.EAGAIN, length, Result{Status: Again, Errno: unix.EAGAIN}},
		{unix.EAGAIN, length + 1, Result{Status: Again, Errno: unix.EAGAIN}},
		{unix.EEXIST, -int64(unix.EEXIST), Result{Status: Exists, Errno: unix.EEXIST}},
		{unix.ENOENT, -int64(unix.ENOENT), Result{Status: NotRegistered, Errno: unix.ENOENT}},
		{unix.ESRCH, 0, Result{Status: Gone, Errno: unix.ESRCH}},
		{unix.ENOMEM, -int64(unix.ENOMEM), Result{Status: NoMemory, Errno: unix.ENOMEM}},
		{unix.EFAULT, -int64(unix.EFAULT), Result{Status: BadSource, Errno: unix.EFAULT}},
		{unix.EINVAL, 0, Result{Status: Failed, Errno: unix.EINVAL}},
	} {
		got := result(c.errno, c.done, length)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("errno %v, progress %d: %s", c.errno, c.done, diff)
		}
		err := got.Err()
		if c.errno == 0 && err != nil || c.errno != 0 && !errors.Is(err, c.errno) {
			t.Errorf("errno %v: error %v", c.errno, err)
		}
		if errors.Is(err, ErrGone) != (c.errno == unix.ESRCH) {
			t.Errorf("errno %v: error %v matches ErrGone: %v", c.errno, err, errors.Is(err, ErrGone))
		}
	}
}

func TestFeaturesString(t *testing.T) {
	for want, f := range map[string]Features{
		"0x0":                       0,
		"UFFD_FEATURE_EVENT_REMOVE": UFFD_FEATURE_EVENT_REMOVE,
		"UFFD_FEATURE_EVENT_REMOVE|UFFD_FEATURE_POISON|0x4000000000000000": UFFD_FEATURE_POISON | UFFD_FEATURE_EVENT_REMOVE | 1<<62,
	} {
		if got := f.String(); got != want {
			t.Errorf("%#x is %q; want %q", uint64(f), got, want)
		}
	}
}
