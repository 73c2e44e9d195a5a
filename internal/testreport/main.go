// Command testreport runs Go tests and says how many passed, failed and were
// skipped, and why they were skipped: a run that tested nothing must not look
// like one that found nothing.
//
//	testreport -run 'tests: ./...' -run 'race: -race ./uffd/...'
//	go test -json ./... | testreport
//
// Each -run is a name and the arguments of one go test, run one after the other.
// Without any, testreport reads the output of go test -json from standard input.
// Failures appear as they happen; the last line is
//
//	N passed, N failed, N skipped
//
// and the exit code is 0 only if something passed and nothing failed. Tests
// without subtests count, and tests that fail outside of their subtests.
//
// A run with -race needs cgo and so a C compiler. Where there is none, the run's
// packages count as skipped.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(report(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func report(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testreport", flag.ContinueOnError)
	flags.SetOutput(stderr)
	goCommand := flags.String("go", "go", "the go command")
	var suites []suite
	flags.Func("run", "`name: arguments` of one go test; may be repeated", func(text string) error {
		name, rest, found := strings.Cut(text, ":")
		if !found {
			return fmt.Errorf("%q is not name: arguments", text)
		}
		suites = append(suites, suite{name: name, args: strings.Fields(rest)})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return 2
	}

	t := newTally(stdout)
	if len(suites) == 0 {
		t.suite = "standard input"
		if err := t.read(stdin); err != nil {
			t.fail("reading standard input", err)
		}
	}
	for _, s := range suites {
		if err := s.run(ctx, *goCommand, t, stderr); err != nil {
			t.fail(s.name, err)
		}
	}
	t.summary()
	if t.failed > 0 || t.passed == 0 {
		return 1
	}
	return 0
}
