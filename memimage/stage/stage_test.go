package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage"
)

const (
	mib   = 1 << 20
	pages = 64
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shmDir returns a directory on tmpfs that does not exist yet.
func shmDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stage-test")
	if err != nil {
		t.Skipf("%v; mount a tmpfs at /dev/shm and make it writable", err)
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "area")
}

func openArea(t *testing.T, budget uint64) *Area {
	t.Helper()
	area, _, err := Open(Config{Dir: shmDir(t), Budget: budget})
	check(t, err)
	t.Cleanup(func() { check(t, area.Close()) })
	return area
}

// capture writes what a VMM would into a stage: a VM state, and a memory file of
// which the given pages are data.
func capture(t *testing.T, s *Stage, data map[int]byte) {
	t.Helper()
	check(t, os.WriteFile(s.Path("vmstate"), []byte("devices"), 0o600))
	f, err := os.Create(s.Path("mem"))
	check(t, err)
	check(t, f.Truncate(pages*memimage.PageSize))
	for p, b := range data {
		_, err := f.WriteAt(bytes.Repeat([]byte{b}, memimage.PageSize), int64(p)*memimage.PageSize)
		check(t, err)
	}
	check(t, f.Close())
}

func memory(t *testing.T, dir string) []byte {
	t.Helper()
	img, err := memimage.Open(filepath.Join(dir, memimage.ManifestName))
	check(t, err)
	out := make([]byte, img.Size())
	_, err = img.ReadAt(out, 0)
	check(t, errors.Join(err, img.Close()))
	return out
}

func TestFullThenDiffAreSealedFromMemory(t *testing.T) {
	area := openArea(t, 16*mib)
	want := make([]byte, pages*memimage.PageSize)
	var base memimage.Manifest
	last := ""
	for i, data := range []map[int]byte{{0: 1, 5: 5, 6: 6}, {5: 0, 6: 66, 40: 40}} {
		dir, kind := t.TempDir(), memimage.Full
		if i > 0 {
			kind = memimage.Diff
			_, err := memimage.ShareLayers(context.Background(), filepath.Join(last, memimage.ManifestName), dir)
			check(t, err)
		}
		s, err := area.Begin(pages * memimage.PageSize)
		check(t, err)
		capture(t, s, data)
		for p, b := range data {
			copy(want[p*memimage.PageSize:], bytes.Repeat([]byte{b}, memimage.PageSize))
		}
		o := SealOptions{Memory: "mem", Files: []string{"vmstate"}, Dir: dir, Kind: kind, Base: base}
		out, err := s.Seal(context.Background(), o)
		check(t, err)
		check(t, s.Discard())
		if !bytes.Equal(memory(t, dir), want) {
			t.Errorf("capture %d differs from the model", i)
		}
		state, err := os.ReadFile(filepath.Join(dir, "vmstate"))
		if err != nil || string(state) != "devices" {
			t.Errorf("VM state %q, %v", state, err)
		}
		if _, err := s.Seal(context.Background(), o); !errors.Is(err, ErrDiscarded) {
			t.Errorf("seal after discard: %v, want ErrDiscarded", err)
		}
		base, last = out.Manifest, dir
	}
	if got := area.Usage(); got != (Usage{Budget: 16 * mib}) {
		t.Errorf("usage at the end: %+v", got)
	}
}

func TestBudget(t *testing.T) {
	area := openArea(t, 10*mib)
	first, err := area.Begin(7 * mib)
	check(t, err)
	_, err = area.Begin(4 * mib)
	var full *NoRoomError
	if !errors.As(err, &full) || full.Limit != "budget" || full.Room != 3*mib || full.Need != 4*mib {
		t.Fatalf("error %v, want no room in the budget", err)
	}
	capture(t, first, map[int]byte{1: 1, 2: 2})
	written, err := first.Settle()
	check(t, err)
	// Two pages of memory and one of VM state.
	if written < 3*memimage.PageSize || written > 4*memimage.PageSize {
		t.Errorf("settled at %d bytes", written)
	}
	second, err := area.Begin(9 * mib)
	check(t, err)
	want := Usage{Stages: 2, Reserved: 9*mib + written, Budget: 10 * mib}
	if diff := cmp.Diff(want, area.Usage()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	for range 2 {
		check(t, second.Discard())
	}
	if _, err := second.Settle(); !errors.Is(err, ErrDiscarded) {
		t.Errorf("settle after discard: %v, want ErrDiscarded", err)
	}
}

func TestFreeMemoryIsALimit(t *testing.T) {
	area := openArea(t, 1<<62)
	var full *NoRoomError
	if _, err := area.Begin(1 << 60); !errors.As(err, &full) || full.Limit == "budget" {
		t.Errorf("error %v, want no room in memory", err)
	}
	free, err := memAvailable()
	check(t, err)
	tight, _, err := Open(Config{Dir: shmDir(t), Budget: 1 << 62, Reserve: 2 * free})
	check(t, err)
	defer tight.Close()
	if _, err := tight.Begin(1); !errors.As(err, &full) || full.Limit != "memory" {
		t.Errorf("error %v, want the reserve left alone", err)
	}
}

func TestTmpfsIsALimit(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("mount a tmpfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
	area, _, err := Open(Config{Dir: filepath.Join(dir, "area"), Budget: 1 << 62})
	check(t, err)
	defer area.Close()
	first, err := area.Begin(5 * mib)
	check(t, err)
	var full *NoRoomError
	// Nothing has been written yet, and still the room is taken.
	if _, err := area.Begin(5 * mib); !errors.As(err, &full) || full.Limit != "tmpfs" || full.Room != 3*mib {
		t.Errorf("error %v, want 3 MiB left on the tmpfs", err)
	}
	check(t, os.WriteFile(first.Path("mem"), make([]byte, 4*mib), 0o600))
	if _, err := area.Begin(5 * mib); !errors.As(err, &full) || full.Room != 3*mib {
		t.Errorf("error %v, want 3 MiB left whether written or reserved", err)
	}
}

func TestAreaIsTakenOnceAndCleaned(t *testing.T) {
	dir := shmDir(t)
	area, removed, err := Open(Config{Dir: dir, Budget: mib})
	check(t, err)
	if len(removed) != 0 {
		t.Errorf("a new area removed %v", removed)
	}
	s, err := area.Begin(mib)
	check(t, err)
	capture(t, s, nil)
	if _, _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("second area: %v, want ErrInUse", err)
	}
	// As after a crash: the lock goes with the process, the files stay.
	check(t, area.lock.Close())
	next, removed, err := Open(Config{Dir: dir, Budget: mib})
	check(t, err)
	if diff := cmp.Diff([]string{s.dir}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	_, err = next.Begin(mib)
	check(t, err)
	check(t, next.Close())
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("after Close the directory holds %v, %v", entries, err)
	}
}

func TestAreaMustBeOnTmpfs(t *testing.T) {
	dir := t.TempDir()
	var st unix.Statfs_t
	check(t, unix.Statfs(dir, &st))
	if uint32(st.Type) == unix.TMPFS_MAGIC {
		t.Skip("the temporary directory is on tmpfs; set TMPDIR to a disk")
	}
	keep := filepath.Join(dir, "precious")
	check(t, os.WriteFile(keep, nil, 0o600))
	if _, _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("error %v, want one about tmpfs", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a refused directory was emptied: %v", err)
	}
}

// TestFailedSealCanBeRepeated fails each system call of a Seal in turn. The stage
// must survive, and the next Seal make the capture.
func TestFailedSealCanBeRepeated(t *testing.T) {
	area := openArea(t, 16*mib)
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		for n, again := 0, true; again; n++ {
			s, err := area.Begin(mib)
			check(t, err)
			capture(t, s, map[int]byte{3: 3, 4: 0})
			dir := t.TempDir()
			o := SealOptions{Memory: "mem", Files: []string{"vmstate"}, Dir: dir, Kind: memimage.Full}
			seq := &syscallfault.Sequence{N: n, Hit: func(syscallfault.Call) syscallfault.Errno { return errno }}
			serr := syscallfault.Run(seq.Decide, func() { _, err = s.Seal(context.Background(), o) })
			if errors.Is(serr, syscallfault.ErrUnsupported) {
				t.Skip(serr)
			}
			check(t, serr)
			again = seq.Reached()
			if err != nil {
				entries, rerr := os.ReadDir(dir)
				if rerr != nil || len(entries) != 0 {
					t.Fatalf("call %d: a failed seal left %v, %v", n, entries, rerr)
				}
				_, err = s.Seal(context.Background(), o)
			}
			check(t, err)
			if got := memory(t, dir); got[3*memimage.PageSize] != 3 || len(got) != pages*memimage.PageSize {
				t.Fatalf("call %d: the capture differs", n)
			}
			check(t, s.Discard())
		}
	}
}

func TestStagesInParallel(t *testing.T) {
	area := openArea(t, 4*mib)
	root := t.TempDir()
	var group sync.WaitGroup
	errs := make(chan error, 8)
	for i := range 8 {
		group.Go(func() { errs <- stageOnce(area, filepath.Join(root, fmt.Sprint(i))) })
	}
	group.Wait()
	for range 8 {
		check(t, <-errs)
	}
	if got := area.Usage(); got.Stages != 0 || got.Reserved != 0 {
		t.Errorf("usage at the end: %+v", got)
	}
}

// stageOnce stages and seals a capture, waiting for room as long as there is none.
func stageOnce(area *Area, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for {
		s, err := area.Begin(mib)
		var full *NoRoomError
		if errors.As(err, &full) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.Path("mem"), bytes.Repeat([]byte{7}, memimage.PageSize), 0o600); err != nil {
			return err
		}
		_, err = s.Seal(context.Background(), SealOptions{Memory: "mem", Dir: dir, Kind: memimage.Full})
		return errors.Join(err, s.Discard())
	}
}

func TestParseMemAvailable(t *testing.T) {
	got, err := parseMemAvailable([]byte("MemTotal: 100 kB\nMemFree:  50 kB\nMemAvailable:   75 kB\nBuffers: 1 kB\n"))
	if got != 75<<10 || err != nil {
		t.Errorf("%d, %v; want 75 KiB", got, err)
	}
	for _, text := range []string{"", "MemAvailable: x kB\n", "MemAvailable: 75 MB\n", "MemAvailable: 18446744073709551615 kB\n"} {
		if _, err := parseMemAvailable([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
