package fcsim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// small is a workload that fits next to the fixed pages into 64 MiB.
func small() guest.Workload {
	w := guest.Default(1000)
	w.Step = guest.ScatterStep(w.Pages)
	w.Seed = 7
	return w
}

func TestGuestLife(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	if got := p.state(); got != "Not started" {
		t.Errorf("state %q before the start", got)
	}
	w := small()
	w.Free = 100
	p.boot(w, nil)
	if r := p.check(); r.Pages != 1100 || r.Pass != 0 || r.Seed != 7 || r.First != guest.NoPage {
		t.Errorf("check after the first fill: %v", r)
	}
	first := p.write()
	if first.Pass != 1 || first.Pages != 63 || first.Seed == 7 {
		t.Errorf("first write: %v", first)
	}
	p.check()
	p.command('x') // ignored
	p.command(guest.CommandPing)
	if r := p.report(guest.Pong); r.Pages != 0 || r.Pass != 1 || r.Seed != first.Seed {
		t.Errorf("pong: %v", r)
	}
	p.command(guest.CommandAuto)
	for range 3 {
		p.report(guest.Write)
		if r := p.report(guest.Check); r.Bad != 0 {
			t.Fatalf("auto mode: %v", r)
		}
	}
	p.command(guest.CommandStop)
	for r := range p.reports {
		if r.Kind == guest.Stop {
			break
		}
	}
	p.check()
}

func TestPauseStopsTheGuest(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	w := small()
	w.Auto = true
	p.boot(w, nil)
	p.report(guest.Write)
	p.pause()
	p.pause() // again is no error
	if got := p.state(); got != "Paused" {
		t.Errorf("state %q", got)
	}
	// What was said before the pause may still be on its way.
	time.Sleep(50 * time.Millisecond)
	for len(p.reports) > 0 {
		<-p.reports
	}
	p.command(guest.CommandPing)
	select {
	case r := <-p.reports:
		t.Fatalf("a paused guest says %v", r)
	case <-time.After(100 * time.Millisecond):
	}
	p.resume()
	for r := range p.reports {
		if r.Kind == guest.Pong {
			break
		}
	}
}

func TestFileRestore(t *testing.T) {
	source := startProcess(t, shortdir.Make(t))
	source.boot(small(), object{"track_dirty_pages": true})
	source.write()
	source.pause()
	source.snapshot("Full", "full")
	if got := blocks(t, source.path("full.mem")); got < 64<<20 {
		t.Errorf("a full snapshot has %d bytes allocated", got)
	}
	source.resume()
	written := source.write()
	source.pause()
	source.snapshot("Diff", "diff")
	// One class of sixteen, the seeds, and nothing else.
	if got, want := blocks(t, source.path("diff.mem")), int64(written.Pages+1)*pageSize; got < want || got > 2*want {
		t.Errorf("a diff of %d pages has %d bytes allocated", written.Pages+1, got)
	}
	source.snapshot("Diff", "idle")
	if got := blocks(t, source.path("idle.mem")); got != 0 {
		t.Errorf("a diff of nothing has %d bytes allocated", got)
	}
	// A Diff into a file of the right size merges into it.
	source.resume()
	source.write()
	source.pause()
	copyFile(t, source.path("full.mem"), source.path("merged.mem"))
	mergeExtents(t, source.path("diff.mem"), source.path("merged.mem"))
	source.snapshot("Diff", "merged")

	for state, memory := range map[string]string{"full": "full.mem", "merged": "merged.mem"} {
		fork := startProcess(t, shortdir.Make(t))
		fork.ok("PUT", "/snapshot/load", load(source.path(state+".state"), "File", source.path(memory), nil))
		fork.check()
		fork.write()
		fork.check()
		fork.kill()
	}
	source.resume()
	source.check()
}

// mergeExtents copies a diff's data over a base; small() and the diff's zero
// pages make it enough to look at whole pages.
func mergeExtents(t *testing.T, diff, base string) {
	t.Helper()
	data, err := os.ReadFile(diff)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(base, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, pageSize)
	for at := 0; at < len(data); at += pageSize {
		if page := data[at : at+pageSize]; !bytes.Equal(page, zero) {
			if _, err := out.WriteAt(page, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDiffWithoutTracking: what was never touched is not in it.
func TestDiffWithoutTracking(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	p.boot(small(), nil)
	p.pause()
	p.snapshot("Diff", "diff")
	got := blocks(t, p.path("diff.mem"))
	if touched := int64(1000 * pageSize); got < touched || got > 2*touched {
		t.Errorf("%d bytes allocated for a guest that touched %d", got, touched)
	}
	// The diff of a guest that was booted is complete.
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(p.path("diff.state"), "File", p.path("diff.mem"), nil))
	fork.check()
}

func TestCaptureInTheMiddleOfACheck(t *testing.T) {
	source := startProcess(t, shortdir.Make(t))
	w := small()
	w.Rate = 1000 // two vCPUs: half a second a pass
	source.boot(w, nil)
	source.command(guest.CommandCheck)
	time.Sleep(100 * time.Millisecond)
	source.pause()
	source.snapshot("Full", "mid")
	data, err := os.ReadFile(source.path("mid.state"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := decodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	if s.Guest.Phase != checking || s.Guest.done(w) {
		t.Skipf("the guest was not caught in the middle of a check but %s; slower machines are needed", s.Guest.Phase)
	}
	source.resume()
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("mid.state"), "File", source.path("mid.mem"), nil))
	for _, p := range []*process{source, fork} {
		if r := p.report(guest.Check); r.Pages != w.Pages || r.Bad != 0 {
			t.Errorf("the interrupted check ended with %v", r)
		}
		p.check()
	}
}

// TestWrongPageIsFound proves that the guest's check can fail.
func TestWrongPageIsFound(t *testing.T) {
	source := startProcess(t, shortdir.Make(t))
	w := small()
	source.boot(w, nil)
	source.pause()
	source.snapshot("Full", "full")
	file, err := os.OpenFile(source.path("full.mem"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []uint64{5, 900} {
		if _, err := file.WriteAt([]byte{1}, int64(w.Address(page)+pageSize-1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.WriteAt([]byte{0x34, 0x12}, guest.IdentityAddress); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "File", source.path("full.mem"), nil))
	fork.command(guest.CommandCheck)
	if r := fork.report(guest.Check); r.Bad != 2 || r.First != 5 && r.First != 900 || r.ID != 0x1234 {
		t.Errorf("%v", r)
	}
}

func TestTruncatedMemoryFileKillsTheProcess(t *testing.T) {
	source := startProcess(t, shortdir.Make(t))
	source.boot(small(), nil)
	source.pause()
	source.snapshot("Full", "full")
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(source.path("full.state"), "File", source.path("full.mem"), nil))
	if err := os.Truncate(source.path("full.mem"), guest.BaseAddress); err != nil {
		t.Fatal(err)
	}
	fork.command(guest.CommandCheck)
	if code := fork.exitCode(); code != exitSIGBUS {
		t.Errorf("exit code %d instead of %d: %s", code, exitSIGBUS, fork.stderr)
	}
}

// TestMemoryDoesNotFit: a disk that fills up in the middle costs the snapshot and
// nothing else.
func TestMemoryDoesNotFit(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	if err := os.Mkdir(p.path("tiny"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", p.path("tiny"), "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small file system (%v); run as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(p.path("tiny"), 0) })
	p.boot(small(), object{"track_dirty_pages": true})
	p.pause()
	for _, kind := range []string{"Full", "Diff"} {
		message := p.refused("PUT", "/snapshot/create", object{"snapshot_type": kind, "snapshot_path": "state", "mem_file_path": "tiny/mem"})
		if want := "Create snapshot error: Cannot write memory file: Cannot dump memory: Guest memory error: No space left on device (os error 28)"; message != want {
			t.Errorf("%s: %s", kind, message)
		}
	}
	if got := p.state(); got != "Paused" {
		t.Errorf("state %q", got)
	}
	p.snapshot("Diff", "good") // of a fresh guest: everything
	p.resume()
	p.check()
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(p.path("good.state"), "File", p.path("good.mem"), nil))
	fork.check()
}

func TestDiskFull(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	p.boot(small(), object{"track_dirty_pages": true})
	p.pause()
	if message := p.refused("PUT", "/snapshot/create", object{"snapshot_path": "/dev/full", "mem_file_path": "mem"}); !strings.Contains(message, "No space left on device (os error 28)") {
		t.Errorf("full disk: %s", message)
	}
	if err := os.Symlink("/nonexistent/mem", filepath.Join(p.dir, "mem")); err != nil {
		t.Fatal(err)
	}
	if message := p.refused("PUT", "/snapshot/create", object{"snapshot_path": "state", "mem_file_path": "mem", "snapshot_type": "Diff"}); !strings.Contains(message, "Cannot perform open on the memory backing file: No such file or directory") {
		t.Errorf("missing directory: %s", message)
	}
	// What failed lost nothing: the next diff still has every page.
	p.snapshot("Diff", "good")
	p.resume()
	p.check()
	fork := startProcess(t, shortdir.Make(t))
	fork.ok("PUT", "/snapshot/load", load(p.path("good.state"), "File", p.path("good.mem"), nil))
	fork.check()
}
