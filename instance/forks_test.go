package instance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// counting counts the restores that are under way at the same time.
type counting struct {
	hypervisor.Hypervisor
	now, most atomic.Int64
}

func (c *counting) Restore(ctx context.Context, spec hypervisor.RestoreSpec) (hypervisor.VMM, error) {
	now := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	return c.Hypervisor.Restore(ctx, spec)
}

// TestManyForks asks for a hundred forks of one snapshot at once, in several requests.
func TestManyForks(t *testing.T) {
	s := newSite(t)
	count := 100
	if testing.Short() {
		count = 20
	}
	hv := &counting{Hypervisor: s.cfg.Hypervisor}
	s.cfg.Hypervisor, s.cfg.MaxConcurrentRestores = hv, 8
	m := s.open()
	snapshot(s, m)
	type answer struct {
		forks []Forked
		err   error
	}
	answers := make(chan answer)
	for range 4 {
		go func() {
			forks, err := m.ForkSnapshot(within(t), "s", ForkRequest{Count: count / 4, Backend: Auto})
			answers <- answer{forks, err}
		}()
	}
	total := 0
	for range 4 {
		a := <-answers
		if a.err != nil {
			t.Error(a.err)
		}
		for _, f := range a.forks {
			if f.Err != nil || f.Instance.State != Running {
				t.Errorf("%s: %v %v", f.Name, f.Instance.State, f.Err)
			}
			total++
		}
	}
	if total != count {
		t.Errorf("%d forks, want %d", total, count)
	}
	if most := hv.most.Load(); most < 2 || most > 8 {
		t.Errorf("%d restores at the same time, want 2 to 8", most)
	}
	must(s, 0, m.DeleteSnapshot(within(t), "s"))
	s.audit(m)
	s.verify(m)
	s.empty(m)
}

// TestEventsNameTheirRequest forks twice at the same time.
func TestEventsNameTheirRequest(t *testing.T) {
	s := newSite(t)
	m := s.open()
	standby(s, m)
	events := m.Subscribe()
	counts := map[string]int{"one": 2, "two": 3}
	failed := make(chan error)
	for name, count := range counts {
		go func() {
			failed <- second(m.Fork(WithRequest(within(t), name), ForkRequest{Source: "a", Count: count}))
		}()
	}
	for range counts {
		must(s, 0, <-failed)
	}
	events.Close()
	done := map[string]int{}
	for e := range events.C {
		if e.Kind == EventDone {
			done[e.Request]++
		}
		if e.Kind == EventStep && counts[e.Request] == 0 {
			t.Errorf("a step of the request %q: %+v", e.Request, e)
		}
	}
	if !maps.Equal(done, counts) {
		t.Errorf("ends by request are %v, want %v", done, counts)
	}
}

// TestIdentity forks with an identity page and has each guest say what it sees.
func TestIdentity(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	spec := s.spec()
	spec.IdentityAddress = guest.IdentityAddress
	s.create(m, "a", spec)
	forks, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}, Identity: []byte("hello")})
	must(s, 0, err)
	seen := map[uint64]bool{}
	for _, f := range forks {
		if f.Err != nil {
			t.Fatal(f.Err)
		}
		if f.Instance.Backend.Backend != Uffd || !strings.Contains(f.Instance.Backend.Why, "identity") {
			t.Errorf("backend: %+v", f.Instance.Backend)
		}
		check := func() {
			t.Helper()
			id := s.ask(m, f.Name, guest.CommandCheck, guest.Check).ID
			if fmt.Sprintf("%016x", swap(id)) != f.Instance.ID {
				t.Errorf("the guest sees %016x, its id is %s", swap(id), f.Instance.ID)
			}
			seen[id] = true
		}
		check()
		// It stays the same through a capture.
		must(s, 0, second(m.Standby(ctx, f.Name)))
		if _, err := m.Restore(ctx, f.Name, RestoreRequest{Backend: File}); code(err) != CodeNoBackend {
			t.Errorf("restore by file: %v", err)
		}
		must(s, 0, second(m.Restore(ctx, f.Name, RestoreRequest{})))
		check()
	}
	if len(seen) != 2 {
		t.Errorf("%d identities, want 2", len(seen))
	}
	page := IdentityPage(forks[0].Instance.ID, "f", []byte("hello"))
	if !bytes.Contains(page, []byte("faultln\x01\x10\x00\x01\x00\x05\x00\x00\x00"+forks[0].Instance.ID+"fhello")) || len(page) > identityPageSize {
		t.Errorf("identity page: %q", page)
	}
}

// swap turns a little-endian number into the one that its bytes are in hexadecimal.
func swap(n uint64) uint64 {
	var out uint64
	for range 8 {
		out, n = out<<8|n&0xff, n>>8
	}
	return out
}

// TestDisksArePrivate looks for files that two instances have under a writable name.
func TestDisksArePrivate(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	spec := s.spec()
	spec.Drives = append(spec.Drives, Drive{ID: "data", Source: s.write("shared.in", "read by all"), ReadOnly: true})
	must(s, 0, second(m.Create(ctx, CreateRequest{Name: "b", Spec: spec})))
	s.create(m, "a", spec)
	must(s, 0, second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}})))
	must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"})))
	must(s, 0, second(m.ForkSnapshot(ctx, "s", ForkRequest{Names: []string{"h"}, Target: Stopped})))
	must(s, 0, second(m.Standby(ctx, "f")))
	must(s, 0, second(m.Restore(ctx, "f", RestoreRequest{})))
	writable, shared := map[inode]string{}, map[inode]bool{}
	for _, i := range m.List() {
		file, err := identify(filepath.Join(i.Dir, "disks", "rootfs"))
		must(s, 0, err)
		if other := writable[file]; other != "" {
			t.Errorf("%s and %s have the same writable disk", i.Name, other)
		}
		writable[file] = i.Name
		file, err = identify(filepath.Join(i.Dir, "disks", "data"))
		must(s, 0, err)
		shared[file] = true
	}
	if len(writable) != 5 || len(shared) != 1 {
		t.Errorf("%d writable disks and %d read-only ones, want 5 and 1", len(writable), len(shared))
	}

	// Somebody else's writable disk is no source, under whatever name.
	a := mustBe(t, m, "a", Running)
	own := filepath.Join(a.Dir, "disks", "rootfs")
	link, symlink := filepath.Join(s.dir, "link"), filepath.Join(s.dir, "symlink")
	must(s, 0, os.Link(own, link))
	must(s, 0, os.Symlink(own, symlink))
	for _, path := range []string{own, link, symlink} {
		for _, readOnly := range []bool{false, true} {
			spec := s.spec()
			spec.Drives[0].Source, spec.Drives[0].ReadOnly = path, readOnly
			if _, err := m.Create(ctx, CreateRequest{Name: "x", Spec: spec}); code(err) != CodeInUse || !strings.Contains(err.Error(), "a") {
				t.Errorf("drive %s: %v", path, err)
			}
		}
	}
	s.audit(m)
}

// TestStackDepth makes sure that captures of one instance become a stack, and that
// its base is known again to the next Manager.
func TestStackDepth(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	running(s, m)
	layers := func() int {
		t.Helper()
		i, err := m.Get("a")
		must(s, 0, err)
		image, err := memimage.ReadManifest(filepath.Join(i.Dir, "captures", i.Capture.ID, memimage.ManifestName))
		must(s, 0, err)
		return len(image.Layers)
	}
	for want := 1; want <= 4; want++ {
		must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{})))
		if got := layers(); got != want {
			t.Fatalf("%d layers, want %d", got, want)
		}
		must(s, 0, m.Close())
		m = s.open()
		s.ask(m, "a", guest.CommandWrite, guest.Write)
	}
	must(s, 0, second(m.Standby(ctx, "a")))
	must(s, 0, second(m.Restore(ctx, "a", RestoreRequest{Backend: File})))
	s.verify(m)
	if got := layers(); got != 1 {
		t.Errorf("%d layers after flattening", got)
	}
	s.audit(m)
}
