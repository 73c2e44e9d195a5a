package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is one line of go test -json; see go doc cmd/test2json.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64
	ImportPath  string
	FailedBuild string
}

// testKey names one test of one run.
type testKey struct{ suite, pkg, test string }

// test is a test that has not ended yet, or whose parent has not.
type test struct {
	output   []string
	children int
	failed   int // children that failed
}

// skips are the names of skipped tests, each with the runs that skipped it.
type skips map[string][]string

// counts are the results of one package.
type counts struct{ passed, failed, skipped int }

// tally counts results and writes what a reader wants to see at once to out.
type tally struct {
	out   io.Writer
	suite string // of the events that are being read

	passed, failed, skipped int

	running  map[testKey]*test
	packages map[testKey]*counts // by suite and package, test is ""
	loose    map[string][]string // output of packages outside of tests
	reasons  map[string]skips    // skipped tests by reason
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, running: map[testKey]*test{}, packages: map[testKey]*counts{},
		loose: map[string][]string{}, reasons: map[string]skips{}}
}

// read takes the output of go test -json until its end. Lines that are not JSON
// come from a tool that go test ran; they are passed on.
func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				t.add(e)
			} else {
				fmt.Fprint(t.out, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test output: %w", err)
		}
	}
}

func (t *tally) add(e event) {
	switch {
	case e.Action == "build-output":
		fmt.Fprint(t.out, e.Output)
	case e.Action == "build-fail":
		// The failed package's own event counts it.
	case e.Test == "":
		t.addPackage(e)
	default:
		t.addTest(e)
	}
}

func (t *tally) addTest(e event) {
	key := testKey{t.suite, e.Package, e.Test}
	state := t.running[key]
	if state == nil {
		state = &test{}
		t.running[key] = state
		if parent := t.parent(key); parent != nil {
			parent.children++
		}
	}
	count := t.count(e.Package)
	switch e.Action {
	case "output":
		state.output = append(state.output, e.Output)
	case "pass":
		if state.children == 0 {
			t.passed++
			count.passed++
		}
		delete(t.running, key)
	case "skip":
		if state.children == 0 {
			count.skipped++
			t.skip(key.pkg+" "+key.test, reason(state.output))
		}
		delete(t.running, key)
	case "fail":
		t.failTest(key, state)
	}
}

// failTest counts a test unless one of its subtests already is the failure, and
// shows what it printed.
func (t *tally) failTest(key testKey, state *test) {
	if parent := t.parent(key); parent != nil {
		parent.failed++
	}
	if state.failed == 0 {
		t.failed++
		t.count(key.pkg).failed++
		fmt.Fprintf(t.out, "FAIL %s\n%s", t.name(key), indent(state.output))
	} else if said := messages(state.output); len(said) > 0 {
		fmt.Fprintf(t.out, "     %s\n%s", t.name(key), indent(said))
	}
	delete(t.running, key)
}

func (t *tally) addPackage(e event) {
	switch e.Action {
	case "output":
		t.loose[e.Package] = append(t.loose[e.Package], e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	// Whatever still runs now never will end: the binary died under it.
	var unfinished []testKey
	for key := range t.running {
		if key.suite == t.suite && key.pkg == e.Package {
			unfinished = append(unfinished, key)
		}
	}
	// Subtests sort behind their parents and have to be counted before them.
	slices.SortFunc(unfinished, func(a, b testKey) int { return strings.Compare(b.test, a.test) })
	for _, key := range unfinished {
		t.failTest(key, t.running[key])
	}

	count := t.count(e.Package)
	said := t.loose[e.Package]
	delete(t.loose, e.Package)
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.out, "ok   %s %.1fs: %d passed", e.Package, e.Elapsed, count.passed)
		if count.skipped > 0 {
			fmt.Fprintf(t.out, ", %d skipped", count.skipped)
		}
		fmt.Fprintln(t.out)
	case "fail":
		if count.failed == 0 {
			// It did not build, its TestMain failed, it timed out or crashed.
			t.failed++
			count.failed++
		}
		fmt.Fprintf(t.out, "FAIL %s %.1fs\n%s", e.Package, e.Elapsed, indent(said))
		if e.FailedBuild != "" {
			fmt.Fprintf(t.out, "     %s does not build\n", e.FailedBuild)
		}
	}
}

// parent returns the test of which key is a subtest, if there is one.
func (t *tally) parent(key testKey) *test {
	cut := strings.LastIndexByte(key.test, '/')
	if cut < 0 {
		return nil
	}
	key.test = key.test[:cut]
	return t.running[key]
}

func (t *tally) count(pkg string) *counts {
	key := testKey{t.suite, pkg, ""}
	if t.packages[key] == nil {
		t.packages[key] = &counts{}
	}
	return t.packages[key]
}

func (t *tally) name(key testKey) string {
	return fmt.Sprintf("%s %s (%s)", key.pkg, key.test, key.suite)
}

func (t *tally) skip(name, reason string) {
	t.skipped++
	if t.reasons[reason] == nil {
		t.reasons[reason] = skips{}
	}
	t.reasons[reason][name] = append(t.reasons[reason][name], t.suite)
}

// fail counts a failure that no test reported.
func (t *tally) fail(what string, err error) {
	t.failed++
	fmt.Fprintf(t.out, "FAIL %s: %v\n", what, err)
}

// summary writes the skipped tests by reason and, as the last line, the counts.
func (t *tally) summary() {
	if t.skipped > 0 {
		fmt.Fprintln(t.out, "\nSkipped:")
	}
	for _, why := range slices.Sorted(maps.Keys(t.reasons)) {
		names := t.reasons[why]
		fmt.Fprintf(t.out, "  %s\n", why)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			fmt.Fprintf(t.out, "    %s (%s)\n", name, strings.Join(names[name], ", "))
		}
	}
	if t.passed+t.failed == 0 {
		fmt.Fprintln(t.out, "no test ran")
	}
	fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}

// logPrefix is what the testing package puts before a logged line.
var logPrefix = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// messages returns the lines of a test's output that the test itself wrote.
func messages(output []string) []string {
	var said []string
	for _, line := range output {
		bare := strings.TrimSpace(line)
		if bare != "" && !strings.HasPrefix(bare, "=== ") && !strings.HasPrefix(bare, "--- ") {
			said = append(said, line)
		}
	}
	return said
}

// reason returns why a test was skipped: the last message that it logged, with
// the lines that continue it.
func reason(output []string) string {
	said := messages(output)
	for i := len(said) - 1; i >= 0; i-- {
		if !logPrefix.MatchString(said[i]) {
			continue
		}
		words := strings.Fields(logPrefix.ReplaceAllString(strings.Join(said[i:], " "), ""))
		if len(words) > 0 {
			return strings.Join(words, " ")
		}
	}
	return "no reason given"
}

func indent(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("     " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}
