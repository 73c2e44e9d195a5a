package fcsim

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestLayout(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		size uint64
		want []span
	}{
		{128 * mib, []span{{0, 128 * mib}}},
		{3 * gib, []span{{0, 3 * gib}}},
		{3*gib + mib, []span{{0, 3 * gib}, {4 * gib, mib}}},
		{255 * gib, []span{{0, 3 * gib}, {4 * gib, 252 * gib}}},
		{256 * gib, []span{{0, 3 * gib}, {4 * gib, 252 * gib}, {512 * gib, gib}}},
	} {
		if diff := cmp.Diff(c.want, layout(c.size)); diff != "" {
			t.Errorf("%d MiB: %s", c.size/mib, diff)
		}
	}
}

// TestSharesMeetEveryPageOnce: however many vCPUs there are and wherever they are
// interrupted, each page is visited once per pass.
func TestSharesMeetEveryPageOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := guest.Default(rapid.Uint64Range(1, 300).Draw(t, "pages"))
		w.Step = rapid.SampledFrom([]uint64{1, guest.ScatterStep(w.Pages), w.Pages + 1}).Draw(t, "step")
		vcpus := rapid.Uint64Range(1, 5).Draw(t, "vcpus")
		seen := make([]int, w.Pages)
		for vcpu := range vcpus {
			restart := rapid.Uint64Range(1, 50).Draw(t, "restart")
			route, steps := itineraryFrom(w, vcpu, vcpus), uint64(0)
			for visit := vcpu; visit < w.Pages; visit += vcpus {
				if steps++; steps%restart == 0 {
					route = itineraryFrom(w, visit, vcpus)
				}
				if want := visit * w.Step % w.Pages; route.page != want {
					t.Fatalf("visit %d is of page %d instead of %d", visit, route.page, want)
				}
				seen[route.page]++
				route.next()
			}
		}
		for page, n := range seen {
			if n != 1 {
				t.Fatalf("page %d was visited %d times", page, n)
			}
		}
	})
}

func TestBitmap(t *testing.T) {
	b := newBitmap(130)
	var all sync.WaitGroup
	for first := range uint64(4) {
		all.Go(func() {
			for page := first; page < 130; page += 4 {
				if page%3 == 0 {
					b.set(page)
				}
			}
		})
	}
	all.Wait()
	for page := range uint64(130) {
		if b.has(page) != (page%3 == 0) {
			t.Errorf("page %d: %v", page, b.has(page))
		}
	}
	b.reset()
	if b.has(129) || b.has(0) {
		t.Error("set after reset")
	}
}

func TestMemorySpansRegions(t *testing.T) {
	m, err := mapMemory(memoryOptions{spans: []span{{0, 1 << 20}, {1 << 32, 1 << 20}}, page: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.unmap() }()
	m.writable(1<<20 - pageSize)[0] = 1
	m.writable(1 << 20)[0] = 2
	var got []string
	err = m.pieces(1<<20-2*pageSize, 4*pageSize, pageSize, func(offset uint64, part []byte) error {
		got = append(got, fmt.Sprint(offset/pageSize, len(part), part[0]))
		return nil
	})
	if want := []string{"254 4096 0", "255 4096 1", "256 4096 2", "257 4096 0"}; err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v, %v", got, err)
	}
	for _, r := range m.regions {
		if r.address()%hugePageSize != 0 {
			t.Errorf("region at %#x", r.address())
		}
	}
}

func TestPaceKeepsRates(t *testing.T) {
	var leave atomic.Bool
	p := newPace(1000)
	start := time.Now()
	for range 30 {
		p.wait(&leave)
	}
	if took := time.Since(start); took < 25*time.Millisecond {
		t.Errorf("30 visits at 1000 a second took %v", took)
	}
	leave.Store(true)
	slow := newPace(1)
	done := make(chan struct{})
	go func() { slow.wait(&leave); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("a vCPU that has to leave sleeps on")
	}
}

func TestArguments(t *testing.T) {
	given, err := parseArguments([]string{"--api-sock", "a.sock", "--id", "x", "--no-seccomp", "--boot-timer", "--level", "Info"})
	if err != nil || given["api-sock"] != "a.sock" || !given.has("no-seccomp") || given.or("log-path", "none") != "none" {
		t.Errorf("%v, %v", given, err)
	}
	for want, args := range map[string][]string{
		"Found argument 'bogus' which wasn't expected":               {"--bogus"},
		"Found argument 'word' which wasn't expected":                {"word"},
		"The argument 'api-sock' requires a value":                   {"--api-sock"},
		"The argument 'id' requires a value":                         {"--id", "--version"},
		"The argument 'api-sock' was provided more than once":        {"--api-sock", "a", "--api-sock", "b"},
		"Found argument 'version=1' which wasn't expected, or isn't": {"--version=1"},
	} {
		if _, err := parseArguments(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func FuzzParseArguments(f *testing.F) {
	f.Add("--api-sock\na\n--version")
	f.Add("--id")
	f.Add("-h\n--")
	f.Fuzz(func(t *testing.T, line string) {
		given, err := parseArguments(strings.Split(line, "\n"))
		if (err == nil) != (given != nil) {
			t.Errorf("%q: %v, %v", line, given, err)
		}
	})
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		out  string
		err  string
	}{
		{"--version", 0, "fcsim v1.16.0\n\n", ""},
		{"--snapshot-version", 0, "v1.0.0+fcsim\n", ""},
		{"--help", 0, "--api-sock <api-sock>", ""},
		{"--bogus", 153, "", "Arguments parsing error"},
		{"--id a_b", 1, "", "Invalid char (_) at position 1"},
		{"--level nonsense", 152, "", "nonsense"},
		{"--describe-snapshot /nonexistent", 1, "", "No such file or directory (os error 2)"},
	} {
		var out, errs bytes.Buffer
		code := Main(strings.Fields(c.args), strings.NewReader(""), &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%s: %d, %q, %q", c.args, code, out.String(), errs.String())
		}
	}
}

func TestSocketThatExists(t *testing.T) {
	p := startProcess(t, shortdir.Make(t))
	second := spawn(t, p.dir, "--api-sock", "api.sock")
	if code := second.exitCode(); code != exitError || !strings.Contains(second.stderr.String(), "Check that it is not already used") {
		t.Errorf("%d: %s", code, second.stderr)
	}
	third := spawn(t, p.dir, "--api-sock", "nowhere/api.sock")
	if code := third.exitCode(); code != exitError || !strings.Contains(third.stderr.String(), "No such file or directory (os error 2)") {
		t.Errorf("%d: %s", code, third.stderr)
	}
}

func TestOSFault(t *testing.T) {
	err := osFault(fmt.Errorf("open x: %w", syscall.ENOSPC))
	if err.Error() != "No space left on device (os error 28)" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if other := errors.New("other"); osFault(other) != other {
		t.Error("an error without number was changed")
	}
	if wrapped := faultf("Start: %w", err); !errors.Is(wrapped, syscall.ENOSPC) {
		t.Errorf("%v lost its cause", wrapped)
	}
}

func TestLogLayout(t *testing.T) {
	var out bytes.Buffer
	target := &logTarget{out: &out, level: slog.LevelInfo}
	log := slog.New(&logHandler{target: target, id: "vm-1"}).With("a", 1)
	log.Info("hello", "b", "two")
	log.Debug("hidden")
	line := out.String()
	if !strings.HasSuffix(line, " [vm-1:fcsim] hello a=1 b=two\n") || len(line) < 29 || line[4] != '-' || line[19] != '.' {
		t.Errorf("%q", line)
	}
}
