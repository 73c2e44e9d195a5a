package pager

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/google/go-cmp/cmp"
)

func TestParseHandshake(t *testing.T) {
	one := func(fields string) string { return "[{" + fields + "}]" }
	for _, test := range []struct {
		name, payload string
		want          *mapping
		err           string
	}{
		{name: "today's Firecracker", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":4096,"page_size_kib":4096`),
			want: &mapping{4096, []region{{8192, 4096, 0}}}},
		{name: "before 1.12", payload: one(`"base_host_virt_addr":4194304,"size":2097152,"offset":0,"page_size_kib":2097152`),
			want: &mapping{2097152, []region{{4194304, 2097152, 0}}}},
		{name: "before 1.7", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0`),
			want: &mapping{4096, []region{{8192, 4096, 0}}}},
		{name: "unknown field", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0,"colour":"red"`),
			want: &mapping{4096, []region{{8192, 4096, 0}}}},
		{name: "regions in any order", payload: `[{"base_host_virt_addr":40960,"size":4096,"offset":8192},{"base_host_virt_addr":8192,"size":8192,"offset":0}]`,
			want: &mapping{4096, []region{{8192, 8192, 0}, {40960, 4096, 8192}}}},
		{name: "part of it", payload: `[{"base_host_virt`, err: "incomplete"},
		{name: "nothing", payload: ``, err: "incomplete"},
		{name: "not JSON", payload: `hello`, err: "not the JSON array"},
		{name: "an object", payload: `{}`, err: "not the JSON array"},
		{name: "more behind it", payload: `[] x`, err: "behind its JSON array"},
		{name: "no region", payload: `[]`, err: "no memory region"},
		{name: "too many regions", payload: "[" + strings.Repeat(`{},`, maxRegions) + "{}]", err: "more than 64"},
		{name: "no address", payload: one(`"size":4096,"offset":0`), err: "lacks"},
		{name: "negative", payload: one(`"base_host_virt_addr":-1,"size":4096,"offset":0`), err: "not the JSON array"},
		{name: "fraction", payload: one(`"base_host_virt_addr":1.5,"size":4096,"offset":0`), err: "not the JSON array"},
		{name: "empty region", payload: one(`"base_host_virt_addr":8192,"size":0,"offset":0`), err: "size is 0"},
		{name: "unaligned address", payload: one(`"base_host_virt_addr":8193,"size":4096,"offset":0`), err: "multiples of the page size"},
		{name: "unaligned for huge pages", payload: one(`"base_host_virt_addr":8192,"size":2097152,"offset":0,"page_size":2097152`), err: "multiples of the page size"},
		{name: "address overflows", payload: one(`"base_host_virt_addr":18446744073709547520,"size":8192,"offset":0`), err: "overflows"},
		{name: "offset overflows", payload: one(`"base_host_virt_addr":8192,"size":8192,"offset":18446744073709547520`), err: "overflows"},
		{name: "page size 0", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":0`), err: "not a power of two"},
		{name: "page size 5000", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":5000`), err: "not a power of two"},
		{name: "page size 4", payload: one(`"base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":4`), err: "not supported"},
		{name: "two page sizes", payload: `[{"base_host_virt_addr":8192,"size":4096,"offset":0},{"base_host_virt_addr":2097152,"size":2097152,"offset":4096,"page_size":2097152}]`, err: "different page sizes"},
		{name: "overlap in memory", payload: `[{"base_host_virt_addr":8192,"size":8192,"offset":0},{"base_host_virt_addr":12288,"size":4096,"offset":8192}]`, err: "overlap in the VMM"},
		{name: "overlap in the image", payload: `[{"base_host_virt_addr":8192,"size":8192,"offset":0},{"base_host_virt_addr":40960,"size":4096,"offset":4096}]`, err: "overlap in the memory image"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseHandshake([]byte(test.payload))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v instead of one about %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(mapping{}, region{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzHandshake checks what every accepted handshake promises to the fault path.
func FuzzHandshake(f *testing.F) {
	f.Add([]byte(`[{"base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":4096,"page_size_kib":4096}]`))
	f.Add([]byte(`[{"base_host_virt_addr":40960,"size":4096,"offset":8192},{"base_host_virt_addr":8192,"size":8192,"offset":0}]`))
	f.Add([]byte(`[{"base_host_virt_addr":18446744073709547520,"size":8192,"offset":0}]`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseHandshake(payload)
		if err != nil {
			return
		}
		var offsets uint64
		for i, r := range m.regions {
			if r.size == 0 || r.start+r.size <= r.start && r.start+r.size != 0 || (r.start|r.size|r.offset)%m.pageSize != 0 {
				t.Fatalf("region %+v was accepted", r)
			}
			if i > 0 && m.regions[i-1].start+m.regions[i-1].size > r.start {
				t.Fatalf("regions overlap: %+v", m.regions)
			}
			offsets += r.size
			if found, ok := m.find(r.start + r.size - 1); !ok || found != r {
				t.Fatalf("the last byte of %+v is found in %+v", r, found)
			}
		}
		if m.end() < offsets {
			t.Fatalf("%d bytes of memory in an image of %d", offsets, m.end())
		}
	})
}

// Each bad handshake fails its session with a reason that names the thing, ends the
// peer exactly if that handed its memory over, and leaves other sessions alone.
func TestBadHandshakes(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	good := func(vmm *faulter.Process) [][]byte {
		payload, err := vmm.Payload()
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{payload}
	}
	fd := []faulter.Attachment{faulter.AttachUserfaultfd}
	for i, test := range []struct {
		name   string
		pages  int
		raw    func(vmm *faulter.Process) faulter.Raw
		reason string
		killed bool
	}{
		{"not JSON", 8, func(*faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, Attach: fd}
		}, "not the JSON array", true},
		{"no descriptor", 8, func(vmm *faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: good(vmm)}
		}, "no descriptor", false},
		{"another kind of descriptor", 8, func(vmm *faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: good(vmm), Attach: []faulter.Attachment{faulter.AttachNull}}
		}, "no userfaultfd", false},
		{"several descriptors", 8, func(vmm *faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: good(vmm), Attach: append(fd, fd...)}
		}, "several descriptors", false},
		{"no region", 8, func(*faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: [][]byte{[]byte("[]")}, Attach: fd}
		}, "no memory region", true},
		{"too long", 8, func(*faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: [][]byte{[]byte("[" + strings.Repeat(" ", maxHandshakeBytes))}, Attach: fd}
		}, "longer than", true},
		{"more memory than the image", 9, func(vmm *faulter.Process) faulter.Raw {
			return faulter.Raw{Parts: good(vmm), Attach: fd}
		}, "restore with the image of the same capture", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := fmt.Sprint("bad", i)
			s := create(t, p, control.SessionRequest{ID: id, Image: manifest})
			vmm := startFaulter(t, pagesOf(test.pages))
			if err := vmm.HandshakeRaw(s.Socket, test.raw(vmm)); err != nil && !test.killed {
				t.Fatal(err)
			}
			s = await(t, p, id, control.Failed)
			if !strings.Contains(s.Reason, test.reason) {
				t.Errorf("the reason is %q", s.Reason)
			}
			if test.killed {
				wantExit(t, vmm)
			} else if _, err := vmm.Payload(); err != nil {
				t.Errorf("a process that handed no memory over was ended: %v", err)
			}
		})
	}
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "good", Image: manifest})
	wantMemory(t, vmm, content)
}

func TestHandshakeInPieces(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	for cut := range 3 {
		vmm := startFaulter(t, pagesOf(8))
		payload, err := vmm.Payload()
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("cut", cut)
		s := create(t, p, control.SessionRequest{ID: id, Image: manifest})
		parts := [][]byte{payload[:1], payload[1:20], payload[20:]}
		if err := vmm.HandshakeRaw(s.Socket, faulter.Raw{Parts: parts, Attach: []faulter.Attachment{faulter.AttachUserfaultfd}, AttachTo: cut}); err != nil {
			t.Fatal(err)
		}
		wantMemory(t, vmm, content)
	}
}

func TestSilentAndMissingVMMs(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	never := create(t, p, control.SessionRequest{ID: "never", Image: manifest, ConnectTimeoutMS: 50})
	silent := create(t, p, control.SessionRequest{ID: "silent", Image: manifest, ConnectTimeoutMS: 500})
	vmm := startFaulter(t, pagesOf(8))
	if err := vmm.HandshakeRaw(silent.Socket, faulter.Raw{}); err != nil {
		t.Fatal(err)
	}
	if s := await(t, p, "never", control.Failed); !strings.Contains(s.Reason, "no VMM connected to "+never.Socket) {
		t.Errorf("the reason is %q", s.Reason)
	}
	if s := await(t, p, "silent", control.Failed); !strings.Contains(s.Reason, "sent no whole handshake") {
		t.Errorf("the reason is %q", s.Reason)
	}
}

// A connection that says nothing and goes away is a probe; the VMM may still come.
func TestProbeThenVMMThenStranger(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	s := create(t, p, control.SessionRequest{ID: "a", Image: manifest})
	vmm := startFaulter(t, pagesOf(8))
	if err := vmm.HandshakeRaw(s.Socket, faulter.Raw{}); err != nil {
		t.Fatal(err)
	}
	if err := vmm.HangUp(); err != nil {
		t.Fatal(err)
	}
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	await(t, p, "a", control.Serving)
	stranger := startFaulter(t, pagesOf(8))
	// It is turned away; whether its writing fails depends on who is faster.
	_ = stranger.Handshake(s.Socket)
	wantMemory(t, vmm, content)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if s, _ = p.Session("a"); s.Stats.Rejected == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections were turned away instead of 2", s.Stats.Rejected)
		}
	}
}

func TestHandshakeOfFaulterIsFirecrackers(t *testing.T) {
	vmm := startFaulter(t, pagesOf(3), pagesOf(2))
	payload, err := vmm.Payload()
	if err != nil {
		t.Fatal(err)
	}
	var elements []map[string]uint64
	if err := json.Unmarshal(payload, &elements); err != nil {
		t.Fatal(err)
	}
	if len(elements) != 2 || elements[1]["offset"] != 3*4096 || elements[0]["page_size"] != 4096 || elements[0]["page_size_kib"] != 4096 {
		t.Errorf("handshake %s", payload)
	}
	if _, err := parseHandshake(payload[:len(payload)-1]); !errors.Is(err, errIncomplete) {
		t.Errorf("its beginning gave %v", err)
	}
}
