package instance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/hugepages"
)

// TestHugePages takes an instance whose memory is of 2 MiB pages through captures,
// restores and forks. None of them can be restored by file.
func TestHugePages(t *testing.T) {
	t.Run("fcsim", func(t *testing.T) { s := newSite(t); testHugePages(t, s, s.spec()) })
	t.Run("firecracker", func(t *testing.T) { s, spec := realSite(t); testHugePages(t, s, spec) })
}

func testHugePages(t *testing.T, s *site, spec Spec) {
	hugepages.Reserve(t, 3*testMemory/hugepages.Size)
	m := s.open()
	ctx := within(t)
	spec.HugePages = true
	s.create(m, "a", spec)
	s.ask(m, "a", guest.CommandWrite, guest.Write)
	must(s, 0, second(m.Standby(ctx, "a")))
	if _, err := m.Restore(ctx, "a", RestoreRequest{Backend: File}); code(err) != CodeNoBackend || !strings.Contains(err.Error(), "2 MiB") {
		t.Errorf("restore by file: %v", err)
	}
	i, err := m.Restore(ctx, "a", RestoreRequest{})
	must(s, 0, err)
	if i.Backend == nil || i.Backend.Backend != Uffd || !strings.Contains(i.Backend.Why, "2 MiB") {
		t.Errorf("restored with %+v", i.Backend)
	}
	s.ask(m, "a", guest.CommandWrite, guest.Write)
	// A stack by now, of which the forks are made.
	must(s, 0, second(m.Fork(ctx, ForkRequest{Source: "a", Names: []string{"f", "g"}})))
	s.verify(m)
	for _, i := range m.List() {
		smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", i.PID))
		must(s, 0, err)
		if !strings.Contains(string(smaps), "KernelPageSize:     2048 kB") {
			t.Errorf("%s has no page of 2 MiB", i.Name)
		}
	}
	s.audit(m)
	s.empty(m)
}
