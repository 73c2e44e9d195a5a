package fcsim

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// capture boots a guest, captures it as full.state and full.mem and returns it
// paused.
func capture(t *testing.T, w guest.Workload, machine object) *process {
	t.Helper()
	source := startProcess(t, shortdir.Make(t))
	source.ok("PUT", "/balloon", object{"amount_mib": 0, "deflate_on_oom": false, "stats_polling_interval_s": 1})
	source.boot(w, machine)
	source.pause()
	source.snapshot("Full", "full")
	return source
}

func TestLazyRestore(t *testing.T) {
	w := small()
	source := capture(t, w, nil)
	pager := startPager(t, source.path("full.mem"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "Uffd", pager.path, object{"track_dirty_pages": true}))
	<-pager.ready
	if got := pager.faults.Load(); got == 0 {
		t.Error("the load itself touched no memory")
	}
	if len(pager.mappings) != 1 || pager.mappings[0].Size != 64<<20 || pager.mappings[0].PageSize != pageSize ||
		pager.mappings[0].BaseHostVirtAddr%hugePageSize != 0 {
		t.Errorf("mappings %+v", pager.mappings)
	}
	fork.check()
	if got := pager.faults.Load(); got < int64(w.Pages) || got > int64(w.Pages)+20 {
		t.Errorf("%d faults for %d pages", got, w.Pages)
	}
	// A diff with tracking is of what was written, not of what is resident.
	fork.pause()
	fork.snapshot("Diff", "diff")
	if got := blocks(t, fork.path("diff.mem")); got > 8*pageSize {
		t.Errorf("a diff of nothing but the generation ID has %d bytes allocated", got)
	}
	// A full one pulls everything through the pager.
	fork.snapshot("Full", "again")
	if got, want := pager.faults.Load(), int64(64<<20/pageSize); got < want {
		t.Errorf("%d faults for a full snapshot of %d pages", got, want)
	}
	fork.resume()
	fork.write()
	fork.check()

	second := startProcess(t, shortdir.Make(t))
	second.ok("PUT", "/snapshot/load", load(fork.path("again.state"), "File", fork.path("again.mem"), nil))
	second.check()
}

// TestMemoryAboveTheHole: 4 GiB of guest are two regions, one of them past the
// addresses of devices.
func TestMemoryAboveTheHole(t *testing.T) {
	w := small()
	w.Pages, w.Step, w.Spread = 64, 1, 15<<10 // 60 MiB apart
	w.Free = 4
	source := startProcess(t, shortdir.Make(t))
	source.boot(w, object{"mem_size_mib": 4096, "track_dirty_pages": true})
	source.pause()
	source.snapshot("Diff", "sparse") // of a fresh guest: complete
	source.resume()
	source.check()
	pager := startPager(t, source.path("sparse.mem"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("sparse.state"), "Uffd", pager.path, nil))
	fork.check()
	<-pager.ready
	want := []mapping{{Size: 3 << 30, Offset: 0, PageSize: pageSize, PageSizeKiB: pageSize}, {Size: 1 << 30, Offset: 3 << 30, PageSize: pageSize, PageSizeKiB: pageSize}}
	if len(pager.mappings) != 2 {
		t.Fatalf("mappings %+v", pager.mappings)
	}
	for i, got := range pager.mappings {
		got.BaseHostVirtAddr = 0
		if got != want[i] {
			t.Errorf("mapping %d is %+v instead of %+v", i, got, want[i])
		}
	}
}

func TestWithoutPagerTheGuestFreezes(t *testing.T) {
	source := capture(t, small(), nil)
	pager := startPager(t, source.path("full.mem"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "Uffd", pager.path, nil))
	pager.stop()
	fork.command(guest.CommandCheck)
	select {
	case r := <-fork.reports:
		t.Fatalf("a guest without pager says %v", r)
	case <-fork.exited:
		t.Fatalf("a guest without pager ends: %v", fork.cmd.ProcessState)
	case <-time.After(300 * time.Millisecond):
	}
	// Enough requests to make a collector run, which would wait for the vCPUs.
	for range 1000 {
		if got := fork.state(); got != "Running" {
			t.Fatalf("state %q", got)
		}
	}
	fork.kill() // ends a frozen guest at once
}

// TestSlowFaultsAreQueuedOnce: the runtime preempts what runs for 10 ms with a
// signal, and a signal would end a fault and queue it again.
func TestSlowFaultsAreQueuedOnce(t *testing.T) {
	w := guest.Default(4)
	source := capture(t, w, object{"vcpu_count": 1})
	pager := startPager(t, source.path("full.mem"))
	pager.lag.Store(int64(100 * time.Millisecond))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "Uffd", pager.path, nil))
	fork.check()
	// The VMM's page, the four of the workload, seeds and identity.
	if faults, repeated := pager.faults.Load(), pager.repeated.Load(); faults != 7 || repeated != 0 {
		t.Errorf("%d faults, %d of them for a second time", faults, repeated)
	}
}

func TestBalloonWhileLoadingLazily(t *testing.T) {
	w := small()
	w.Free = 1024
	source := capture(t, w, nil)
	pager := startPager(t, source.path("full.mem"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "Uffd", pager.path, nil))
	fork.ok("PATCH", "/balloon", object{"amount_mib": 3})
	waitForBalloon(fork, `"actual_pages":768`)
	// The guest goes on when the last event was read, which is before it is counted.
	waitFor(t, "REMOVE events of 3 MiB", func() bool { return pager.removed.Load() >= 3<<20 })
	if got := pager.removed.Load(); got != 3<<20 {
		t.Errorf("REMOVE events of %d bytes", got)
	}
	if r := fork.check(); r.Pages != w.Pages+w.Free {
		t.Errorf("%v", r)
	}
	fork.ok("PATCH", "/balloon", object{"amount_mib": 0})
	waitForBalloon(fork, `"actual_pages":0`)
	fork.check()
	fork.write()
	fork.check()

	// What was dropped is zero in a full snapshot, too.
	fork.pause()
	fork.snapshot("Full", "again")
	second := startProcess(t, shortdir.Make(t))
	second.ok("PUT", "/snapshot/load", load(fork.path("again.state"), "File", fork.path("again.mem"), nil))
	second.ok("PATCH", "/balloon", object{"amount_mib": 4})
	waitForBalloon(second, `"actual_pages":1024`)
	second.check()
}

func waitForBalloon(p *process, want string) {
	p.t.Helper()
	waitFor(p.t, want, func() bool { return containsText(p.ok(http.MethodGet, "/balloon/statistics", nil), want) })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestBalloonSeesJunkThatCameBack: a pager that forgets about REMOVE is caught.
func TestBalloonSeesJunkThatCameBack(t *testing.T) {
	w := small()
	w.Free = 256
	source := capture(t, w, nil)
	s := decodeFile(t, source.path("full.state"))
	s.Balloon.Given, s.Balloon.Zeroed = 256, 256
	encodeFile(t, s, source.path("forged.state"))
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("forged.state"), "File", source.path("full.mem"), nil))
	fork.command(guest.CommandCheck)
	if r := fork.report(guest.Check); r.Bad != 256 || r.First != w.Pages {
		t.Errorf("%v", r)
	}
}

func TestFailedLoadEndsTheProcess(t *testing.T) {
	source := capture(t, small(), nil)
	for name, body := range map[string]object{
		"no socket": load(source.path("full.state"), "Uffd", filepath.Join(source.dir, "nothing"), nil),
		"no state":  load(source.path("nothing"), "File", source.path("full.mem"), nil),
		"no memory": load(source.path("full.state"), "File", source.path("nothing"), nil),
		"short":     load(source.path("full.state"), "File", source.path("full.state"), nil),
		"network":   load(source.path("full.state"), "File", source.path("full.mem"), object{"network_overrides": []object{{"iface_id": "eth0", "host_dev_name": "tap0"}}}),
		"vsock":     load(source.path("full.state"), "File", source.path("full.mem"), object{"vsock_override": object{"uds_path": "v.sock"}}),
	} {
		t.Run(name, func(t *testing.T) {
			p := startProcess(t, shortdir.Make(t))
			p.refused("PUT", "/snapshot/load", body)
			if code := p.exitCode(); code != exitError {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
