package faulter_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/uffd"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const page = 4096

func TestMain(m *testing.M) {
	faulter.Main()
	if os.Getenv(orphanEnv) != "" {
		fmt.Fprintln(os.Stderr, orphanParent())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// start runs a child for the duration of the test.
func start(t *testing.T, config faulter.Config) *faulter.Process {
	t.Helper()
	p, err := faulter.Start(config)
	if errors.Is(err, faulter.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close the child: %v", err)
		}
	})
	return p
}

func takeFD(t *testing.T, p *faulter.Process) *uffd.FD {
	t.Helper()
	fd, err := p.TakeFD()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fd.Close(); err != nil && !errors.Is(err, uffd.ErrClosed) {
			t.Error(err)
		}
	})
	return fd
}

func twoRegions() faulter.Config {
	return faulter.Config{Regions: []faulter.Region{{Size: 4 * page}, {Size: 2 * page}}}
}

// fill installs every page of the child with the bytes of content.
func fill(t *testing.T, p *faulter.Process, fd *uffd.FD, content []byte) {
	t.Helper()
	for _, r := range p.Regions() {
		if err := fd.Copy(r.Address, content[r.Offset:r.Offset+r.Size], 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func pattern(n int) []byte {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(i%251 + i/page)
	}
	return content
}

func TestAccess(t *testing.T) {
	p := start(t, twoRegions())
	content := pattern(6 * page)
	fill(t, p, takeFD(t, p), content)

	// Both ranges span the regions.
	got, err := p.Read(page, 4*page)
	if err != nil || !bytes.Equal(got, content[page:5*page]) {
		t.Fatalf("Read: %d bytes that differ from what was installed, %v", len(got), err)
	}
	copy(content[4*page-3:], "faults")
	if err := p.Write(4*page-3, []byte("faults")); err != nil {
		t.Fatal(err)
	}
	sum, err := p.Sum(0, 6*page)
	if want := sha256.Sum256(content); err != nil || sum != want {
		t.Fatalf("Sum = %x, %v; want %x", sum, err, want)
	}
	touched := []uint64{0, 4 * page, 6*page - 8}
	for _, store := range []bool{false, true} {
		latencies, err := p.Touch(3, touched, store)
		if err != nil || len(latencies) != len(touched) {
			t.Fatalf("Touch = %v, %v; want three latencies", latencies, err)
		}
		if store {
			for _, offset := range touched {
				binary.NativeEndian.PutUint64(content[offset:], offset)
			}
		}
		if got, err := p.Read(0, 6*page); err != nil || !bytes.Equal(got, content) {
			t.Errorf("memory differs from what it should be after touching, store %v (%v)", store, err)
		}
	}
}

func TestRegionsAreApart(t *testing.T) {
	p := start(t, twoRegions())
	regions := p.Regions()
	for i := range regions {
		regions[i].Address = 0
	}
	want := []faulter.Region{{Size: 4 * page, PageSize: page}, {Size: 2 * page, PageSize: page, Offset: 4 * page}}
	if diff := cmp.Diff(want, regions); diff != "" {
		t.Error(diff)
	}
	fd := takeFD(t, p)
	for i, r := range p.Regions() {
		for _, start := range []uint64{r.Address - page, r.Address + r.Size - page} {
			if got := fd.Copy(start, make([]byte, 2*page), 0); got.Status != uffd.NotRegistered {
				t.Errorf("region %d: copy across its edge at %#x: %v; want %v", i, start, got.Status, uffd.NotRegistered)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	p := start(t, twoRegions())
	calls := map[string]func() error{
		"read beyond":    func() error { _, err := p.Read(5*page, 2*page); return err },
		"write beyond":   func() error { return p.Write(6*page, []byte{1}) },
		"unaligned":      func() error { _, err := p.Touch(0, []uint64{4}, false); return err },
		"thread":         func() error { _, err := p.Touch(faulter.MaxThreads, []uint64{0}, false); return err },
		"no such socket": func() error { return p.Handshake(filepath.Join(t.TempDir(), "none")) },
	}
	for name, call := range calls {
		if err := call(); err == nil || errors.Is(err, faulter.ErrExited) {
			t.Errorf("%s: error %v; want one from a living child", name, err)
		}
	}
	for name, config := range map[string]faulter.Config{
		"no region":        {},
		"size":             {Regions: []faulter.Region{{Size: page + 1}}},
		"page size":        {Regions: []faulter.Region{{Size: page, PageSize: 3}}},
		"huge, small size": {Regions: []faulter.Region{{Size: page, PageSize: 2 << 20}}},
	} {
		if _, err := faulter.Start(config); err == nil {
			t.Errorf("Start with bad %s succeeded", name)
		}
	}
}

// TestThreads has as many threads wait in faults as are promised, on different
// pages, while the child still obeys.
func TestThreads(t *testing.T) {
	p := start(t, faulter.Config{Regions: []faulter.Region{{Size: faulter.MaxThreads * page}}})
	var calls []interface{ Done() <-chan struct{} }
	for i := range faulter.MaxThreads {
		calls = append(calls, p.StartTouch(i, []uint64{uint64(i) * page}, false))
	}
	fd := takeFD(t, p) // answered although all threads wait
	for read := 0; read < faulter.MaxThreads; {
		if _, _, err := fd.Wait(nil, -1); err != nil {
			t.Fatal(err)
		}
		msgs := make([]uffd.Message, faulter.MaxThreads)
		n, err := fd.Read(msgs)
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	info, err := fd.Info()
	if err != nil || info.Total != faulter.MaxThreads {
		t.Fatalf("%+v, %v; want %d threads to wait", info, err, faulter.MaxThreads)
	}
	fill(t, p, fd, pattern(faulter.MaxThreads*page))
	for _, call := range calls {
		<-call.Done()
	}
}

// TestEnds ends a child whose threads wait in faults.
func TestEnds(t *testing.T) {
	for name, end := range map[string]func(*faulter.Process) error{
		"close": (*faulter.Process).Close,
		"kill":  (*faulter.Process).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, twoRegions())
			fd := takeFD(t, p)
			call := p.StartRead(0, 1)
			if _, _, err := fd.Wait(nil, -1); err != nil {
				t.Fatal(err)
			}
			if err := end(p); err != nil {
				t.Fatal(err)
			}
			if _, err := call.Wait(); !errors.Is(err, faulter.ErrExited) {
				t.Errorf("call = %v; want %v", err, faulter.ErrExited)
			}
			if err := p.Write(0, []byte{1}); !errors.Is(err, faulter.ErrExited) {
				t.Errorf("call after the end = %v; want %v", err, faulter.ErrExited)
			}
		})
	}
}

// orphanEnv makes the test binary a parent that TestOrphan kills.
const orphanEnv = "FAULTLINE_FAULTER_TEST_PARENT"

// orphanParent starts a child, leaves one of its threads in a fault, says the
// child's pid and waits to be killed.
func orphanParent() error {
	p, err := faulter.Start(twoRegions())
	if err != nil {
		return err
	}
	fd, err := p.TakeFD()
	if err != nil {
		return err
	}
	p.StartRead(0, 1)
	if _, _, err := fd.Wait(nil, -1); err != nil {
		return err
	}
	fmt.Println(p.Pid())
	<-p.Exited()
	return errors.New("the child ended first")
}

// TestOrphan checks that a child does not outlive a parent that is killed.
func TestOrphan(t *testing.T) {
	start(t, twoRegions()) // skips where the parent could not either
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), orphanEnv+"=1")
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatalf("pid of the grandchild: %v", err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // "signal: killed"
	// Returns when the grandchild has ended; the test's own deadline is what
	// fails it otherwise.
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

func TestBusError(t *testing.T) {
	p := start(t, twoRegions())
	fd := takeFD(t, p)
	r := p.Regions()[0]
	if err := uffd.Supports(uffd.UFFD_FEATURE_POISON); err != nil {
		t.Skip(err)
	}
	if err := fd.Poison(uffd.Range{Start: r.Address, Len: page}, 0).Err(); err != nil {
		t.Fatal(err)
	}
	var bus *faulter.BusError
	if _, err := p.Touch(0, []uint64{8}, false); !errors.As(err, &bus) || bus.Address/page != r.Address/page {
		t.Errorf("Touch of a poisoned page = %v; want a bus error in page %#x", err, r.Address)
	}
	if _, err := p.Read(0, 1); !errors.As(err, &bus) {
		t.Errorf("Read of a poisoned page = %v; want a bus error", err)
	}
}

func TestUserModeOnly(t *testing.T) {
	config := twoRegions()
	config.UserModeOnly = true
	p := start(t, config)
	if !p.UserModeOnly() {
		t.Error("the child has a descriptor for kernel faults that it was told not to ask for")
	}
	fill(t, p, takeFD(t, p), pattern(6*page))
	if _, err := p.Read(0, 6*page); err != nil {
		t.Error(err)
	}
}

func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	dir := shortdir.Make(t)
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener, path
}

func TestHandshake(t *testing.T) {
	p := start(t, twoRegions())
	listener, path := listen(t)
	if err := p.Handshake(path); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	n, fds, err := uffd.ReceiveFDs(conn, buf)
	if err != nil || len(fds) != 1 {
		t.Fatalf("received %d descriptors, %v; want 1", len(fds), err)
	}
	fd, err := uffd.NewFD(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	var got []map[string]uint64
	if err := json.Unmarshal(buf[:n], &got); err != nil {
		t.Fatal(err)
	}
	var want []map[string]uint64
	for _, r := range p.Regions() {
		want = append(want, map[string]uint64{"base_host_virt_addr": r.Address, "size": r.Size,
			"offset": r.Offset, "page_size": page, "page_size_kib": page})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := p.HangUp(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v after HangUp; want the end", n, err)
	}
}

func TestHandshakeRaw(t *testing.T) {
	p := start(t, twoRegions())
	listener, path := listen(t)
	raw := faulter.Raw{
		Parts:    [][]byte{[]byte("no "), []byte("JSON")},
		Attach:   []faulter.Attachment{faulter.AttachNull, faulter.AttachUserfaultfd},
		AttachTo: 1,
	}
	if err := p.HandshakeRaw(path, raw); err != nil {
		t.Fatal(err)
	}
	if err := p.HangUp(); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var text []byte
	var descriptors int
	for {
		buf := make([]byte, 64)
		n, fds, err := uffd.ReceiveFDs(conn, buf)
		if err != nil {
			break
		}
		uffd.CloseAll(fds)
		text = append(text, buf[:n]...)
		descriptors += len(fds)
	}
	if string(text) != "no JSON" || descriptors != 2 {
		t.Errorf("received %q with %d descriptors; want \"no JSON\" with 2", text, descriptors)
	}
}
