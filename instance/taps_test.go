package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/tap"
)

// fakeTaps are taps that are files of a directory: other processes see them too, and
// making them needs no capability.
type fakeTaps struct{ dir string }

func (f fakeTaps) Make(name string) (bool, error) {
	file, err := os.OpenFile(filepath.Join(f.dir, name), os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, file.Close()
}

func (f fakeTaps) Remove(name string) error {
	if err := os.Remove(filepath.Join(f.dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f fakeTaps) List() (names []string, err error) {
	entries, err := os.ReadDir(f.dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// auditTaps fails if there is a tap that no instance names, or none for one that
// runs.
func (s *site) auditTaps(m *Manager) {
	s.t.Helper()
	list, err := s.cfg.Taps.List()
	if err != nil {
		s.t.Fatal(err)
	}
	named := map[string]bool{}
	for _, i := range m.List() {
		for _, n := range i.Spec.Networks {
			named[n.Tap] = true
			if i.PID != 0 && strings.HasPrefix(n.Tap, "t"+i.ID[:8]) && !slices.Contains(list, n.Tap) {
				s.t.Errorf("%s runs without its tap %s", i.Name, n.Tap)
			}
		}
	}
	for _, tap := range list {
		if !named[tap] {
			s.t.Errorf("the tap %s is left", tap)
		}
	}
}

// TestTapsOfCallers: a tap that the caller names is neither made nor removed.
func TestTapsOfCallers(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	mine := fakeTaps{s.cfg.Taps.(fakeTaps).dir}
	must(s, true, second(mine.Make("mine")))
	spec := s.spec()
	spec.Networks[0].Tap = "mine"
	spec.Networks = append(spec.Networks, Network{ID: "eth1"})
	s.create(m, "a", spec)
	if list, err := mine.List(); err != nil || len(list) != 2 {
		t.Errorf("the taps are %v, %v: want the caller's and one of the template", list, err)
	}
	must(s, 0, m.Delete(ctx, "a"))
	if list, err := mine.List(); err != nil || !slices.Equal(list, []string{"mine"}) {
		t.Errorf("the taps after the end are %v, %v", list, err)
	}
}

// TestTapsAreSwept: a tap that no record names is removed at the next start, but not
// while a record cannot be read; and one that went with a reboot is made again.
func TestTapsAreSwept(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	running(s, m)
	i := mustBe(t, m, "a", Running)
	own := i.Spec.Networks[0].Tap
	must(s, 0, second(m.Stop(ctx, "a", StopRequest{})))
	must(s, 0, m.Close())
	taps := s.cfg.Taps
	must(s, true, second(taps.Make("orphan")))
	path := filepath.Join(i.Dir, recordName)
	record, err := os.ReadFile(path)
	must(s, 0, err)
	for _, test := range []struct {
		record string
		want   []string
	}{{"{", []string{"orphan", own}}, {string(record), []string{own}}} {
		must(s, 0, os.WriteFile(path, []byte(test.record), 0o600))
		m = s.open()
		if list, err := taps.List(); err != nil || !slices.Equal(list, test.want) {
			t.Errorf("the taps are %v, %v, want %v", list, err, test.want)
		}
		must(s, 0, m.Close())
	}
	must(s, 0, taps.Remove(own))
	m = s.open()
	must(s, 0, second(m.Start(ctx, "a")))
	s.audit(m)
}

// TestTapsOfTheHost makes real ones, and has Firecracker open them.
func TestTapsOfTheHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making taps needs CAP_NET_ADMIN; run as root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("%v; load the kernel module tun", err)
	}
	s, spec := realSite(t)
	host, err := tap.New(fmt.Sprintf("faultline test %s", s.dir))
	must(s, 0, err)
	s.cfg.Taps = host
	t.Cleanup(func() {
		list, err := host.List()
		for _, name := range list {
			err = errors.Join(err, fmt.Errorf("the tap %s is left", name), host.Remove(name))
		}
		if err != nil {
			t.Error(err)
		}
	})
	m := s.open()
	ctx := within(t)
	spec.Networks = s.spec().Networks
	s.create(m, "a", spec)
	must(s, 0, second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f"}})))
	s.audit(m)
	s.verify(m)
	must(s, 0, m.Delete(ctx, "a"))
	must(s, 0, second(m.Standby(ctx, "f")))
	must(s, 0, second(m.Restore(ctx, "f", RestoreRequest{})))
	s.audit(m)
	must(s, 0, m.Delete(ctx, "f"))
}
