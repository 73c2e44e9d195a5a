package instance

import (
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// realSite is a site of the real Firecracker, whose guests are a small program that
// checks its own memory. Its spec has neither a drive, which would have to be whole
// sectors, nor a network interface, whose tap needs privileges.
func realSite(t *testing.T) (*site, Spec) {
	t.Helper()
	choice, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal})
	if err != nil {
		t.Skipf("%v", err)
	}
	s := newSite(t)
	s.cfg.Hypervisor = firecracker.New(firecracker.Config{Binary: choice.Binary})
	program, err := kernel.Build(s.work, testMemory, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.kernel = s.write("program", string(program))
	spec := s.spec()
	spec.Drives, spec.Networks = nil, nil
	return s, spec
}

// TestFirecracker takes instances of the real Firecracker through their life.
func TestFirecracker(t *testing.T) {
	s, spec := realSite(t)
	m := s.open()
	ctx := within(t)
	spec.Drives, spec.VsockCID, spec.IdentityAddress = s.spec().Drives, 3, guest.IdentityAddress
	s.write("disk.in", string(make([]byte, 1<<20)))
	s.create(m, "a", spec)
	work := func(ref string) uint64 {
		t.Helper()
		s.ask(m, ref, guest.CommandCheck, guest.Check)
		s.ask(m, ref, guest.CommandWrite, guest.Write)
		return s.ask(m, ref, guest.CommandCheck, guest.Check).ID
	}
	work("a")
	must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"})))
	work("a")
	forks, err := m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}})
	must(s, 0, err)
	must(s, 0, m.Delete(ctx, "a"))
	seen := map[uint64]bool{}
	for _, f := range forks {
		seen[work(f.Name)] = true
	}
	if len(seen) != 2 {
		t.Errorf("the forks see the identities %v", seen)
	}
	// The VMMs outlive the manager.
	must(s, 0, m.Close())
	m = s.open()
	mustBe(t, m, "f", Running)
	must(s, 0, second(m.Pause(ctx, "g")))
	must(s, 0, second(m.Resume(ctx, "g")))
	must(s, 0, second(m.Standby(ctx, "f")))
	must(s, 0, second(m.Restore(ctx, "f", RestoreRequest{})))
	work("f")
	must(s, 0, second(m.ForkSnapshot(ctx, "s", ForkRequest{Names: []string{"h"}})))
	must(s, 0, m.DeleteSnapshot(ctx, "s"))
	work("h")
	work("g")
	s.audit(m)
	s.empty(m)
}

// TestFirecrackerByFile restores by the File backend, from a flat image and from a
// stack that is flattened.
func TestFirecrackerByFile(t *testing.T) {
	s, spec := realSite(t)
	m := s.open()
	ctx := within(t)
	s.create(m, "a", spec)
	for range 3 {
		s.ask(m, "a", guest.CommandWrite, guest.Write)
		must(s, 0, second(m.Standby(ctx, "a")))
		i, err := m.Restore(ctx, "a", RestoreRequest{Backend: File})
		must(s, 0, err)
		t.Logf("%+v", i.Backend)
		s.ask(m, "a", guest.CommandCheck, guest.Check)
	}
	must(s, 0, m.Delete(ctx, "a"))
	s.mustBeEmpty(m)
}
