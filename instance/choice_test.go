package instance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
)

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		wants
		backend Backend // empty: refused
		flatten bool
	}{
		{wants{standard: File, layers: 1}, File, false},
		{wants{standard: File, layers: 2, pager: true}, File, true},
		{wants{standard: Uffd, layers: 1, pager: true}, Uffd, false},
		{wants{standard: Uffd, layers: 1}, "", false},
		{wants{standard: Auto, layers: 1, pager: true}, File, false},
		{wants{standard: Auto, layers: 2, pager: true}, Uffd, false},
		{wants{standard: Auto, layers: 2}, File, true},
		{wants{standard: File, layers: 1, huge: true, pager: true}, Uffd, false},
		{wants{standard: File, layers: 1, identity: true, pager: true}, Uffd, false},
		{wants{standard: File, layers: 1, identity: true}, "", false},
		{wants{asked: File, standard: Uffd, layers: 1, pager: true}, File, false},
		{wants{asked: File, standard: Uffd, layers: 1, huge: true, pager: true}, "", false},
		{wants{asked: Auto, standard: Uffd, layers: 1, pager: true}, File, false},
		{wants{asked: Uffd, standard: File, layers: 3, pager: true}, Uffd, false},
	} {
		p, err := test.wants.choose()
		if p.choice.Backend != test.backend || p.flatten != test.flatten || (err == nil) != (p.choice.Why != "") {
			t.Errorf("%+v: %+v, %v", test.wants, p, err)
		}
		if err != nil && code(err) != CodeNoBackend {
			t.Errorf("%+v: %v", test.wants, err)
		}
	}
}

func TestCompatible(t *testing.T) {
	current := hypervisor.Description{Name: "firecracker", Version: "v1.16.1", SnapshotVersion: "v10.1.0"}
	here := host{"CPU A", "6.18.2-x"}
	good := func() capture.Record {
		return capture.Record{
			ID: "c", CPUModel: here.cpuModel, HostKernel: "6.18.9",
			Hypervisor: capture.Hypervisor{Name: "firecracker", Version: "v1.16.0", SnapshotVersion: "v10.1.0"},
		}
	}
	if warnings, err := compatible(good(), current, here); err != nil || len(warnings) != 0 {
		t.Errorf("a good capture: %v, %v", warnings, err)
	}
	older := good()
	older.Hypervisor.SnapshotVersion, older.HostKernel = "v10.0.0", "6.1.0"
	if warnings, err := compatible(older, current, here); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "6.1.0") {
		t.Errorf("an older capture of another kernel: %v, %v", warnings, err)
	}
	silent := good()
	silent.Hypervisor.SnapshotVersion = ""
	if warnings, err := compatible(silent, current, here); err != nil || len(warnings) != 1 {
		t.Errorf("a capture without a snapshot version: %v, %v", warnings, err)
	}
	for want, spoil := range map[string]func(*capture.Record){
		"fcsim":   func(r *capture.Record) { r.Hypervisor.Name = "fcsim" },
		"v9.0.0":  func(r *capture.Record) { r.Hypervisor.SnapshotVersion = "v9.0.0" },
		"v10.2.0": func(r *capture.Record) { r.Hypervisor.SnapshotVersion = "v10.2.0" },
		"newest":  func(r *capture.Record) { r.Hypervisor.SnapshotVersion = "newest" },
		"CPU B":   func(r *capture.Record) { r.CPUModel = "CPU B" },
	} {
		r := good()
		spoil(&r)
		if _, err := compatible(r, current, here); code(err) != CodeIncompatible || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// other is a hypervisor that says it is another version, and must not be used.
type other struct{ hypervisor.Hypervisor }

func (o other) Describe() hypervisor.Description {
	d := o.Hypervisor.Describe()
	d.SnapshotVersion = "v99.0.0"
	return d
}

func (o other) Restore(context.Context, hypervisor.RestoreSpec) (hypervisor.VMM, error) {
	return nil, errors.New("a VMM was started")
}

func TestIncompatibleIsRefusedFirst(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	standby(s, m)
	must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: "s"})))
	must(s, 0, m.Close())
	s.cfg.Hypervisor = other{s.cfg.Hypervisor}
	m = s.open()
	for name, try := range map[string]func() error{
		"restore":          func() error { return second(m.Restore(ctx, "a", RestoreRequest{})) },
		"fork":             func() error { return second(m.Fork(ctx, ForkRequest{Source: "a"})) },
		"fork of snapshot": func() error { return second(m.ForkSnapshot(ctx, "s", ForkRequest{})) },
		"snapshot restore": func() error { return second(m.RestoreSnapshot(ctx, "s", RestoreRequest{})) },
	} {
		if err := try(); code(err) != CodeIncompatible || !strings.Contains(err.Error(), "v99.0.0") || !strings.Contains(err.Error(), "1.0.0+fcsim") {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustBe(t, m, "a", Standby)
	s.audit(m)
}
