package instance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/guest"
)

// TestWarningsNameTheSource: what a warning names is still there when it is read.
func TestWarningsNameTheSource(t *testing.T) {
	s := newSite(t)
	m := s.open()
	made, err := m.Create(within(t), CreateRequest{Name: "a", Spec: s.spec()})
	must(s, 0, err)
	for _, w := range made.Warnings { // none where the filesystem has reflinks
		if strings.Contains(w, draftMark) || !strings.Contains(w, made.Spec.Drives[0].Source) {
			t.Errorf("the warning is: %s", w)
		}
	}
}

// TestEndOfAnEarlierVMM: a manager learns how the VMM of an earlier one has ended.
func TestEndOfAnEarlierVMM(t *testing.T) {
	s := newSite(t)
	m := s.open()
	running(s, m)
	must(s, 0, m.Close())
	m = s.open()
	kill(s, m, syscall.SIGTERM)
	now, err := m.Wait(within(t), "a", Failed)
	must(s, 0, err)
	if strings.Contains(now.Reason, "unknown") {
		t.Skip("the kernel tells exit states to parents only; use Linux 6.15")
	}
	if !strings.Contains(now.Reason, "terminated") {
		t.Errorf("the reason is: %s", now.Reason)
	}
	s.audit(m)
}

// TestLife takes one instance and its forks through everything that works.
func TestLife(t *testing.T) {
	for _, backend := range []Backend{File, Uffd, Auto} {
		t.Run(string(backend), func(t *testing.T) { testLife(t, newSite(t), backend) })
	}
}

func testLife(t *testing.T, s *site, backend Backend) {
	s.cfg.Backend = backend
	m := s.open()
	ctx := within(t)
	i := s.create(m, "source", s.spec())
	if i.State != Running || i.PID == 0 {
		t.Fatalf("after start: %+v", i)
	}
	check := func(ref string) {
		t.Helper()
		s.ask(m, ref, guest.CommandCheck, guest.Check)
		s.ask(m, ref, guest.CommandWrite, guest.Write)
		s.ask(m, ref, guest.CommandCheck, guest.Check)
	}
	check("source")
	if i, err := m.Pause(ctx, "source"); err != nil || i.State != Paused {
		t.Fatalf("pause: %v, %v", i.State, err)
	}
	if i, err := m.Resume(ctx, i.ID[:6]); err != nil || i.State != Running {
		t.Fatalf("resume: %v, %v", i.State, err)
	}
	snap, err := m.CreateSnapshot(ctx, "source", SnapshotRequest{Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	mustBe(t, m, "source", Running)
	check("source")
	if snap.Layers != 1 || snap.Instance != i.ID {
		t.Errorf("snapshot: %+v", snap)
	}

	// Forks of the running instance, of a stack of layers.
	forks, err := m.Fork(ctx, ForkRequest{Source: "source", Count: 3, Names: []string{"fork"}})
	if err != nil {
		t.Fatal(err)
	}
	mustBe(t, m, "source", Running)
	for _, f := range forks {
		if f.Err != nil || f.Instance.State != Running || f.Instance.Backend == nil {
			t.Fatalf("fork: %+v", f)
		}
		if want := backend; backend != Auto && f.Instance.Backend.Backend != want {
			t.Errorf("backend is %v, want %v", f.Instance.Backend, want)
		}
		t.Logf("%s: %v", f.Name, f.Instance.Backend)
		if f.Instance.Spec.Networks[0].Tap == i.Spec.Networks[0].Tap {
			t.Errorf("a fork has the tap %s of its source", i.Spec.Networks[0].Tap)
		}
	}

	// The sources go; the forks do not notice.
	if err := m.Delete(ctx, "source"); err != nil {
		t.Fatal(err)
	}
	for _, f := range forks {
		check(f.Name)
	}
	if i, err := m.Standby(ctx, "fork-1"); err != nil || i.State != Standby || i.PID != 0 {
		t.Fatalf("standby: %+v, %v", i, err)
	}
	others, err := m.Fork(ctx, ForkRequest{Source: "fork-1", Names: []string{"a", "b"}, Target: Standby})
	if err != nil || others[0].Instance.State != Standby {
		t.Fatalf("fork to standby: %+v, %v", others, err)
	}
	for _, ref := range []string{"fork-1", "a", "b"} {
		i, err := m.Restore(ctx, ref, RestoreRequest{})
		if err != nil || i.State != Running {
			t.Fatalf("restore %s: %+v, %v", ref, i, err)
		}
		check(ref)
	}
	if _, err := m.ForkSnapshot(ctx, "snap", ForkRequest{Names: []string{"c"}}); err != nil {
		t.Fatal(err)
	}
	if err := m.DeleteSnapshot(ctx, "snap"); err != nil {
		t.Fatal(err)
	}
	check("c")
	if _, err := m.Fork(ctx, ForkRequest{Source: "c", Names: []string{"d"}, Target: Stopped}); err != nil {
		t.Fatal(err)
	}
	mustBe(t, m, "d", Stopped)
	if _, err := m.Start(ctx, "d"); err != nil {
		t.Fatal(err)
	}
	s.await(m, "d", guest.Ready)
	for _, i := range m.List() {
		if err := m.Delete(ctx, i.ID); err != nil {
			t.Errorf("delete %s: %v", i.Name, err)
		}
	}
	s.mustBeEmpty(m)
}

// mustBeEmpty fails if anything of any instance is left.
func (s *site) mustBeEmpty(m *Manager) {
	s.t.Helper()
	if list := m.List(); len(list) > 0 {
		s.t.Errorf("instances are left: %+v", list)
	}
	if pids := s.vmms(); len(pids) > 0 {
		s.t.Errorf("VMMs are left: %v", pids)
	}
	if sessions := s.sessions(); len(sessions) > 0 {
		s.t.Errorf("sessions are left: %v", sessions)
	}
	for _, dir := range []string{"instances", "snapshots"} {
		if names := tree(s.t, filepath.Join(s.cfg.DataDir, dir)); len(names) > 0 {
			s.t.Errorf("files are left in %s: %v", dir, names)
		}
	}
}

// TestRestoreSnapshot puts an instance back to where a snapshot was taken of it, its
// disk included.
func TestRestoreSnapshot(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	i := s.create(m, "a", s.spec())
	before := s.ask(m, "a", guest.CommandWrite, guest.Write)
	if _, err := m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "then"}); err != nil {
		t.Fatal(err)
	}
	s.ask(m, "a", guest.CommandWrite, guest.Write)
	disk := filepath.Join(i.Dir, "disks", "rootfs")
	if err := os.WriteFile(disk, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.RestoreSnapshot(ctx, "then", RestoreRequest{}); code(err) != CodeWrongState {
		t.Fatalf("restore over a running instance: %v", err)
	}
	if _, err := m.Stop(ctx, "a", StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.RestoreSnapshot(ctx, "then", RestoreRequest{Paused: true}); err != nil {
		t.Fatal(err)
	}
	mustBe(t, m, "a", Paused)
	if _, err := m.Resume(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if now := s.ask(m, "a", guest.CommandCheck, guest.Check); now.Pass != before.Pass || now.Seed != before.Seed {
		t.Errorf("the guest is at pass %d, want %d", now.Pass, before.Pass)
	}
	if text, err := os.ReadFile(disk); err != nil || string(text) != "a disk" {
		t.Errorf("the disk holds %q, %v", text, err)
	}
	if names := tree(t, i.Dir); slices.Contains(names, disksBefore) {
		t.Errorf("the disks from before are left: %v", names)
	}
}
