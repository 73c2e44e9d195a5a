package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

func TestPagerCommands(t *testing.T) {
	dir := shortdir.Make(t)
	pager, err := supervisor.Start(t.Context(), supervisor.Options{Binary: filepath.Join(binaries, "faultline-pager"), DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pager.Kill(); err != nil {
			t.Error(err)
		}
	})

	if r := faultline(t, binaries, nil, "pager", "sessions", "--data-dir", dir); r.code != 0 || !strings.HasPrefix(r.stdout, "SESSION") {
		t.Errorf("sessions gave %v", r)
	}
	r := faultline(t, binaries, nil, "pager", "sessions", "--json", "--data-dir", dir)
	var sessions struct{ Sessions []any }
	if decode(t, r, &sessions); r.code != 0 || sessions.Sessions == nil {
		t.Errorf("sessions as JSON gave %v", r)
	}
	r = faultline(t, binaries, nil, "pager", "stats", "--data-dir", dir)
	var stats struct {
		Process struct {
			ResidentBytes uint64 `json:"resident_bytes"`
		}
	}
	if decode(t, r, &stats); r.code != 0 || stats.Process.ResidentBytes == 0 {
		t.Errorf("stats gave %v", r)
	}
	if r := faultline(t, binaries, nil, "pager", "drain", "--data-dir", dir); r.code != 0 || !strings.Contains(r.stdout, "0 sessions left") {
		t.Errorf("drain gave %v", r)
	}
	<-pager.Exited()
	if r := faultline(t, binaries, nil, "pager", "stats", "--data-dir", dir); r.code != 1 || !strings.Contains(r.stderr, dir) {
		t.Errorf("stats of a pager that is gone gave %v", r)
	}
}
