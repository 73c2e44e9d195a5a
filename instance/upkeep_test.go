package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/memimage"
)

// shelf is a directory of images with their owners, and what each has to hold.
type shelf struct {
	t     *testing.T
	dir   string
	names []string
	gates map[string]*gate
	gone  map[string]bool
	wants map[string][]byte
}

const shelfPages = 8

// newShelf makes the images of five owners: "a" and "b" have the same stack of three
// layers, "next" has gone on from it, "base" has its lowest layer alone, and "other"
// shares nothing.
func newShelf(t *testing.T) *shelf {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fl")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &shelf{t: t, dir: dir}
	s.layer("base", "", 1, 2, 3)
	s.layer("middle", "base", 2)
	s.layer("a", "middle", 2, 4)
	s.layer("next", "a", 5)
	s.layer("other", "", 7)
	get(memimage.ShareImage(t.Context(), s.manifest("a"), s.mkdir("b")))
	if err := os.RemoveAll(filepath.Join(dir, "middle")); err != nil {
		t.Fatal(err)
	}
	s.read()
	return s
}

// get returns what must be had.
func get[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// openShelf is the shelf that another process has made or left in dir.
func openShelf(t *testing.T, dir string) *shelf {
	s := &shelf{t: t, dir: dir}
	s.read()
	return s
}

func (s *shelf) read() {
	s.t.Helper()
	s.names, s.gates, s.gone, s.wants = []string{"a", "b", "base", "next", "other"}, map[string]*gate{}, map[string]bool{}, map[string][]byte{}
	for _, name := range s.names {
		s.gates[name] = &gate{}
		s.wants[name] = s.contents(name)
	}
}

func (s *shelf) manifest(name string) string {
	return filepath.Join(s.dir, name, memimage.ManifestName)
}

func (s *shelf) mkdir(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// layer seals a layer with some pages, over the image base if there is one.
func (s *shelf) layer(name, base string, pages ...int) {
	s.t.Helper()
	dir := s.mkdir(name)
	o := memimage.SealOptions{Source: filepath.Join(dir, "raw"), Dir: dir, Kind: memimage.Full}
	if base != "" {
		o.Kind = memimage.Diff
		o.Base = get(memimage.ShareLayers(s.t.Context(), s.manifest(base), dir)).Manifest
	}
	f := get(os.Create(o.Source))
	for _, p := range pages {
		get(f.WriteAt(bytes.Repeat([]byte(name[:1]), pageSize), int64(p)*pageSize))
	}
	if err := errors.Join(f.Truncate(shelfPages*pageSize), f.Close()); err != nil {
		s.t.Fatal(err)
	}
	get(memimage.Seal(s.t.Context(), o))
}

func (s *shelf) contents(name string) []byte {
	s.t.Helper()
	img := get(memimage.Open(s.manifest(name)))
	defer img.Close()
	memory := make([]byte, img.Size())
	get(img.ReadAt(memory, 0))
	return memory
}

func (s *shelf) images() []keptImage {
	var list []keptImage
	for _, name := range s.names {
		list = append(list, keptImage{manifest: s.manifest(name), gate: s.gates[name], still: func() bool { return !s.gone[name] }})
	}
	return list
}

var thorough = Upkeep{Flatten: memimage.FlattenPolicy{MaxDepth: 2}, Checksums: true}

func (s *shelf) upkeep(cfg Upkeep) *upkeep {
	return newUpkeep(cfg, slog.New(slog.DiscardHandler), s.dir, s.images, func(capture.Sharing) {})
}

func (s *shelf) layers(name string) []memimage.LayerEntry {
	s.t.Helper()
	return get(memimage.ReadManifest(s.manifest(name))).Layers
}

// check compares all images with what they have to hold, and makes sure that nothing
// is in their directories that they do not need.
func (s *shelf) check() {
	s.t.Helper()
	for _, name := range s.names {
		if !bytes.Equal(s.contents(name), s.wants[name]) {
			s.t.Errorf("the memory of %s has changed", name)
		}
		v, err := memimage.Verify(s.t.Context(), s.manifest(name), nil)
		if err := errors.Join(err, v.Err()); err != nil {
			s.t.Error(err)
		}
		if removed, err := memimage.Prune(s.manifest(name)); err != nil || len(removed) > 0 {
			s.t.Errorf("%s had needless files: %v, %v", name, removed, err)
		}
	}
	if got := names(s.t, s.dir); !slices.Equal(got, s.names) {
		s.t.Errorf("the directory holds %v", got)
	}
}

// checkDone makes sure that all is done: what was merged and what was summed was so
// once for all owners.
func (s *shelf) checkDone() {
	s.t.Helper()
	s.check()
	merged := s.layers("a")[0]
	for name, want := range map[string]int{"a": 1, "b": 1, "next": 2, "base": 1, "other": 1} {
		layers := s.layers(name)
		if len(layers) != want {
			s.t.Errorf("%s has %d layers, want %d", name, len(layers), want)
		}
		if want := map[string]bool{"a": true, "b": true, "next": true}[name]; want != (layers[0].ID == merged.ID) {
			s.t.Errorf("%s has the merged layer: %v", name, !want)
		}
		for _, l := range layers {
			if _, err := os.Stat(filepath.Join(s.dir, name, memimage.SumsFile(l.ID))); err != nil {
				s.t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, file := range []string{merged.File, merged.Index, memimage.SumsFile(merged.ID)} {
		info := get(os.Stat(filepath.Join(s.dir, "a", file)))
		if n := info.Sys().(*syscall.Stat_t).Nlink; n != 3 {
			s.t.Errorf("%s has %d names, want one for each of three owners", file, n)
		}
	}
}

// names lists a directory.
func names(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	for _, e := range get(os.ReadDir(dir)) {
		list = append(list, e.Name())
	}
	return list
}

// finish lets the upkeep come to its end, as if the time to try again had come.
func finish(t *testing.T, u *upkeep) {
	t.Helper()
	clear(u.failed)
	for u.pass(t.Context()) {
	}
	if len(u.failed) > 0 {
		t.Errorf("not done: %v, %+v", u.failed, u.counted())
	}
}

func TestUpkeepDoesItOnceForAll(t *testing.T) {
	s := newShelf(t)
	user := get(memimage.Open(s.manifest("b")))
	defer user.Close()
	u := s.upkeep(thorough)
	finish(t, u)
	s.checkDone()
	// base, other, the merged one and what is on top of it.
	want := UpkeepStats{Flattened: 1, Superseded: 3, Checksummed: 4}
	if got := u.counted(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	memory := make([]byte, user.Size())
	if _, err := user.ReadAt(memory, 0); err != nil || !bytes.Equal(memory, s.wants["b"]) {
		t.Errorf("who had the stack open has something else: %v", err)
	}
	if len(u.settled) != len(s.names) {
		t.Errorf("settled: %v", u.settled)
	}
}

func TestUpkeepAsConfigured(t *testing.T) {
	s := newShelf(t)
	finish(t, s.upkeep(Upkeep{Checksums: true}))
	s.check()
	if len(s.layers("next")) != 4 || lacksSums(s.manifest("next"), get(memimage.ReadManifest(s.manifest("next")))) {
		t.Error("checksums alone were asked for")
	}
	finish(t, s.upkeep(Upkeep{Flatten: memimage.FlattenPolicy{MaxSuperseded: 0.3}}))
	s.check()
	// Of six data pages of the stack, two are hidden; one more hides none.
	if len(s.layers("a")) != 1 || len(s.layers("next")) != 2 {
		t.Errorf("%d and %d layers", len(s.layers("a")), len(s.layers("next")))
	}
	u := s.upkeep(Upkeep{})
	u.run(t.Context()) // returns
}

// TestUpkeepOfWhatIsLeft: an owner that is busy is waited for, one that has gone or may
// not be changed is passed over, and nothing is done again and again for nobody.
func TestUpkeepOfWhatIsLeft(t *testing.T) {
	s := newShelf(t)
	u := s.upkeep(thorough)
	for _, name := range s.names {
		s.gone[name] = true
	}
	if u.pass(t.Context()) || len(u.failed) == 0 || u.counted().Failed != 0 {
		t.Errorf("for nobody: put off %v, %+v", u.failed, u.counted())
	}
	s.check()
	if len(u.chores()) != 0 {
		t.Error("what was put off is due at once")
	}
	clear(s.gone)
	// While "b" is busy, "a" before it gets its own; then b's operation flattens it.
	u = s.upkeep(Upkeep{Flatten: thorough.Flatten})
	busy := s.gates["b"]
	if err := busy.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() { done <- u.pass(t.Context()) }()
	for len(s.layers("a")) != 1 {
	}
	if _, err := memimage.Flatten(t.Context(), memimage.FlattenOptions{Manifest: s.manifest("b")}); err != nil {
		t.Fatal(err)
	}
	get(memimage.Prune(s.manifest("b")))
	busy.unlock()
	if !<-done {
		t.Error("nothing was done")
	}
	finish(t, u)
	s.check()
	if len(s.layers("b")) != 1 || s.layers("b")[0].ID == s.layers("a")[0].ID {
		t.Error("what an operation has flattened was flattened again")
	}
}

// impatient is a context that ends as soon as somebody waits for its end.
type impatient struct {
	context.Context
	end    context.CancelFunc
	waited bool
}

func (c *impatient) Done() <-chan struct{} {
	c.waited = true
	c.end()
	return c.Context.Done()
}

// TestUpkeepStandsAside: while a guest waits for its capture nothing is read or merged.
func TestUpkeepStandsAside(t *testing.T) {
	s := newShelf(t)
	u := s.upkeep(thorough)
	first, second := u.pauses.begin(), u.pauses.begin()
	first()
	ctx, cancel := context.WithCancel(t.Context())
	c := &impatient{Context: ctx, end: cancel}
	if u.pass(c) || !c.waited {
		t.Errorf("during a capture it waited: %v", c.waited)
	}
	s.check()
	if len(s.layers("a")) != 3 {
		t.Error("it merged during a capture")
	}
	// Nothing else makes it wait; and somebody who waits already goes on.
	waiting := make(chan struct{})
	go func() { u.pauses.wait(t.Context()); close(waiting) }()
	second()
	<-waiting
	finish(t, u)
	s.checkDone()
}

// expiring is a context that ends when it has been looked at so many times.
type expiring struct {
	context.Context
	left int
}

func (c *expiring) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestUpkeepInterrupted(t *testing.T) {
	s := newShelf(t)
	u := s.upkeep(thorough)
	for looks := 0; ; looks++ {
		u.pass(&expiring{Context: t.Context(), left: looks})
		s.check()
		clear(u.failed)
		if len(u.chores()) == 0 {
			if looks < 5 {
				t.Errorf("looked at its context %d times only", looks)
			}
			break
		}
	}
	s.checkDone()
}

// TestEveryStepOfUpkeepFails: every image is what it was, and the rest is done later.
func TestEveryStepOfUpkeepFails(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EIO} {
		for n := 0; ; n++ {
			s := newShelf(t)
			u := s.upkeep(thorough)
			failed := ""
			seq := &syscallfault.Sequence{N: n, Hit: func(c syscallfault.Call) syscallfault.Errno {
				failed = strings.TrimSpace(c.Name + " " + c.Path)
				return errno
			}}
			serr := syscallfault.Run(seq.Decide, func() {
				for u.pass(t.Context()) {
				}
			})
			if errors.Is(serr, syscallfault.ErrUnsupported) {
				t.Skip(serr)
			} else if serr != nil {
				t.Fatal(serr)
			}
			if !seq.Reached() {
				s.checkDone()
				if n < 40 {
					t.Errorf("only %d calls were there to fail", n)
				}
				break
			}
			// What could not be removed goes with the next chore, or the next start.
			if removed, err := capture.Sweep(s.dir); err != nil || len(removed) > 0 && !strings.HasPrefix(failed, "unlinkat") {
				t.Errorf("left: %v, %v", removed, err)
			}
			for _, name := range s.names {
				get(memimage.Prune(s.manifest(name)))
			}
			s.check()
			if u.counted().LastError != "" && u.counted().Failed == 0 {
				t.Errorf("counted %+v", u.counted())
			}
			finish(t, u)
			// Where one owner's part failed, it was merged for that one alone.
			for _, name := range s.names {
				if depth := len(s.layers(name)); depth > 2 || lacksSums(s.manifest(name), get(memimage.ReadManifest(s.manifest(name)))) {
					t.Errorf("%s has %d layers", name, depth)
				}
			}
			s.check()
			if t.Failed() {
				t.Fatalf("with call %d failed: %s", n, failed)
			}
		}
	}
}

// upkeepVictimVariable makes TestUpkeepVictim the process that is killed: "N dir".
const upkeepVictimVariable = "FAULTLINE_TEST_UPKEEP_VICTIM"

// TestUpkeepVictim is killed by TestUpkeepKilled, before its N-th call that changes a
// file. Otherwise it does nothing.
func TestUpkeepVictim(t *testing.T) {
	number, dir, ok := strings.Cut(os.Getenv(upkeepVictimVariable), " ")
	if !ok {
		return
	}
	n := get(strconv.Atoi(number))
	u := openShelf(t, dir).upkeep(thorough)
	seq := &syscallfault.Sequence{N: n, Hit: func(syscallfault.Call) syscallfault.Errno {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}}
	err := syscallfault.Run(seq.Decide, func() {
		for u.pass(t.Context()) {
		}
	})
	if err != nil && !errors.Is(err, syscallfault.ErrUnsupported) {
		t.Fatal(err)
	}
}

// TestUpkeepKilled kills the upkeep before each of its calls. What the next start does
// leaves every image what it was, and nothing else; the upkeep then comes to its end.
func TestUpkeepKilled(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; ; n += step {
		s := newShelf(t)
		cmd := exec.CommandContext(within(t), os.Args[0], "-test.run=^TestUpkeepVictim$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", upkeepVictimVariable, n, s.dir))
		out, err := cmd.CombinedOutput()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		killed := status.Signaled() && status.Signal() == syscall.SIGKILL
		if err != nil && !killed {
			t.Fatalf("%v: %s", err, out)
		}
		get(capture.Sweep(s.dir))
		for _, name := range s.names {
			get(memimage.Prune(s.manifest(name)))
		}
		s.check()
		finish(t, s.upkeep(thorough))
		s.check()
		if t.Failed() {
			t.Fatalf("killed before call %d", n)
		}
		if !killed {
			s.checkDone()
			if n < 40 {
				t.Skip(syscallfault.ErrUnsupported)
			}
			return
		}
	}
}
