package instance

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage"
)

// depths returns the number of layers of every image, by its manifest, and how many of
// the layers have no checksums.
func depths(m *Manager) (deepest, unsummed int) {
	for _, image := range m.images() {
		now, err := memimage.ReadManifest(image.manifest)
		if err != nil {
			continue
		}
		deepest = max(deepest, len(now.Layers))
		if lacksSums(image.manifest, now) {
			unsummed++
		}
	}
	return deepest, unsummed
}

// awaitUpkeep waits until there is nothing to do for the upkeep any more.
func awaitUpkeep(t *testing.T, m *Manager, depth int) {
	t.Helper()
	for wait := time.Millisecond; wait < time.Minute; wait *= 2 {
		if deepest, unsummed := depths(m); deepest <= depth && unsummed == 0 {
			return
		}
		time.Sleep(wait)
	}
	deepest, unsummed := depths(m)
	t.Fatalf("the deepest image has %d layers, %d images lack checksums: %+v", deepest, unsummed, m.Stats())
}

// verifyImages compares all images with their checksums.
func verifyImages(t *testing.T, m *Manager) {
	t.Helper()
	for _, image := range m.images() {
		v, err := memimage.Verify(t.Context(), image.manifest, nil)
		if err := errors.Join(err, v.Err()); err != nil {
			t.Error(err)
		}
		for _, l := range v.Layers {
			if l.NoSums {
				t.Errorf("layer %s of %s has no checksums", l.ID, image.manifest)
			}
		}
	}
}

// watched calls on whenever a VMM that it has booted is asked for a snapshot.
type watched struct {
	hypervisor.Hypervisor
	on func()
}

func (w watched) Boot(ctx context.Context, spec hypervisor.BootSpec) (hypervisor.VMM, error) {
	vmm, err := w.Hypervisor.Boot(ctx, spec)
	if err != nil {
		return nil, err
	}
	return watchedVMM{vmm, w.on}, nil
}

type watchedVMM struct {
	hypervisor.VMM
	on func()
}

func (v watchedVMM) Snapshot(ctx context.Context, spec hypervisor.SnapshotSpec) error {
	v.on()
	return v.VMM.Snapshot(ctx, spec)
}

// TestUpkeepOfAManager: an instance that is captured again and again never has a deep
// image, its captures stay diffs over what they were flattened to, and whoever was
// made of it on the way is right, by either backend.
func TestUpkeepOfAManager(t *testing.T) {
	s := newSite(t)
	s.cfg.Upkeep = thorough
	var m *Manager
	s.cfg.Hypervisor = watched{s.cfg.Hypervisor, func() {
		m.upkeep.pauses.mu.Lock()
		defer m.upkeep.pauses.mu.Unlock()
		if m.upkeep.pauses.n == 0 {
			t.Error("the upkeep does not know that a guest stands still")
		}
	}}
	m = s.open()
	ctx := within(t)
	running(s, m)
	var passes uint64
	for range 6 {
		must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{})))
		awaitUpkeep(t, m, 2)
		passes = s.ask(m, "a", guest.CommandWrite, guest.Write).Pass
	}
	if stats := m.Stats().Upkeep; stats.Flattened < 2 || stats.Superseded < 2*stats.Flattened || stats.Checksummed < 6 || stats.Failed != 0 {
		t.Errorf("counted %+v", stats)
	}
	if got := m.Stats().Shared; got[memimage.HardLink] == 0 || len(got) != 1 {
		t.Errorf("shared %v", got)
	}
	must(s, 0, second(m.Standby(ctx, "a")))
	awaitUpkeep(t, m, 2)
	i, err := m.Get("a")
	must(s, 0, err)
	if i.Capture.Kind != memimage.Diff {
		t.Errorf("the capture after all the flattening is %s", i.Capture.Kind)
	}
	for _, backend := range []Backend{Uffd, File} {
		must(s, 0, second(m.Restore(ctx, "a", RestoreRequest{Backend: backend})))
		if got := s.ask(m, "a", guest.CommandCheck, guest.Check).Pass; got != passes {
			t.Errorf("restored by %s: the guest has written %d times, want %d", backend, got, passes)
		}
		must(s, 0, second(m.Standby(ctx, "a")))
	}
	for _, snap := range m.Snapshots() {
		must(s, 0, second(m.ForkSnapshot(ctx, snap.ID, ForkRequest{})))
	}
	s.verify(m)
	awaitUpkeep(t, m, 2)
	verifyImages(t, m)
	must(s, 0, m.Close())
	s.cfg.Upkeep = Upkeep{}
	m = s.open()
	s.audit(m)
	s.verify(m)
	s.empty(m)
}

// TestRandomWithUpkeep is TestRandom while every image is flattened as soon as it can
// be.
func TestRandomWithUpkeep(t *testing.T) {
	r := newRandom(t, Upkeep{Flatten: memimage.FlattenPolicy{MaxDepth: 1}, Checksums: true})
	r.live()
	awaitUpkeep(t, r.m, 1)
	verifyImages(t, r.m)
	must(r.site, 0, r.m.Close())
	r.cfg.Upkeep = Upkeep{}
	r.m = r.reopen(nil)
	r.audit(r.m)
	r.empty(r.m)
}

// TestForkThatCannotLink: forks are right where links are refused, the log says why,
// and the counts tell.
func TestForkThatCannotLink(t *testing.T) {
	s := newSite(t)
	var log lockedBuffer
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	m := s.open()
	standby(s, m)
	before := m.Stats()
	if before.Unlinked != "" || before.Shared[memimage.HardLink] == 0 || before.Copied[memimage.Reflink]+before.Copied[memimage.SparseCopy] == 0 {
		t.Errorf("before: %+v", before)
	}
	refuse := func(c syscallfault.Call) syscallfault.Errno {
		if c.Name == "linkat" {
			return unix.EMLINK
		}
		return 0
	}
	e, err := m.find("a")
	must(s, 0, err)
	c := e.captureDir(e.record().Capture)
	// A fork is made on goroutines of its own: what shares its files is called here.
	serr := syscallfault.Run(refuse, func() { err = s.forkHere(m, c) })
	if errors.Is(serr, syscallfault.ErrUnsupported) {
		t.Skip(serr)
	}
	must(s, 0, errors.Join(serr, err))
	after := m.Stats()
	if after.Shared[memimage.HardLink] != before.Shared[memimage.HardLink] || after.Shared[memimage.SparseCopy]+after.Shared[memimage.Reflink] < 4 ||
		!strings.Contains(after.Unlinked, unix.EMLINK.Error()) {
		t.Errorf("before: %+v, after: %+v", before, after)
	}
	if text := log.String(); !strings.Contains(text, "level=WARN msg=\"files were copied that should have been hard-linked\" operation=fork") || !strings.Contains(text, unix.EMLINK.Error()) {
		t.Errorf("the log says:\n%s", text)
	}
	f, err := m.Get("f")
	must(s, 0, err)
	if len(f.Warnings) == 0 || !strings.Contains(f.Warnings[0], unix.EMLINK.Error()) {
		t.Errorf("warnings: %q", f.Warnings)
	}
	must(s, 0, m.Delete(within(t), "a"))
	must(s, 0, second(m.Restore(within(t), "f", RestoreRequest{Backend: File})))
	s.verify(m)
	s.audit(m)
}

// forkHere makes the fork "f" of the capture in dir, in standby, on this goroutine.
func (s *site) forkHere(m *Manager, dir string) error {
	e, err := m.find("a")
	if err != nil {
		return err
	}
	b, err := m.newBrood(within(s.t), ForkRequest{Names: []string{"f"}, Target: Standby}, e.record().Spec, "a")
	if err != nil {
		return err
	}
	defer b.release()
	b.origin, b.from = Origin{Instance: e.id}, e.dir
	r := &run{m: m, ctx: within(s.t)}
	c, err := r.openCapture(filepath.Clean(dir))
	if err != nil {
		return err
	}
	if err := b.use(c); err != nil {
		return err
	}
	return b.bear(b.forks[0], func() {}).Err
}

// lockedBuffer is a buffer that a logger of several goroutines may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
