// Command pagerversion fails when the code that the pager runs has changed since a
// base revision and pager/VERSION has not increased: two different pagers would then
// claim one directory, and one would adopt what the other left.
//
//	pagerversion [-base REVISION]
//
// It compares the working tree with REVISION; without it with the last release tag
// (v1.2.3) before this commit. Where there is none, it says so and passes.
//
// Runtime code is what go list says that cmd/faultline-pager links: every file of
// its packages in this module that is not a test or a text, and the versions of
// the modules that the others come from.
//
// The command reads the repository of the working directory and changes nothing.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("pagerversion", flag.ContinueOnError)
	flags.SetOutput(stderr)
	base := flags.String("base", "", "the revision to compare with; empty for the last release")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	verdict, err := check(*base)
	if err != nil {
		fmt.Fprintln(stderr, "pagerversion:", err)
		return 1
	}
	fmt.Fprintln(stdout, verdict)
	return 0
}

// check returns a sentence for a version that is right, and an error for one that
// is wrong or cannot be told.
func check(base string) (string, error) {
	text, err := os.ReadFile(versionFile)
	if err != nil {
		return "", fmt.Errorf("%w; run it at the top of the checkout", err)
	}
	now, err := parseVersion(string(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", versionFile, err)
	}
	base, why := findBase(base)
	if base == "" {
		return fmt.Sprintf("pager version %v: nothing to compare with, since %s", now, why), nil
	}
	old, err := oldVersion(base)
	if err != nil {
		return "", err
	}
	switch order := now.compare(old); {
	case order < 0:
		return "", fmt.Errorf("%s went from %v in %s down to %v; versions only increase", versionFile, old, base, now)
	case order > 0:
		return fmt.Sprintf("pager version %v: increased since %s, which had %v", now, base, old), nil
	}
	changed, err := changedRuntime(base)
	if err != nil {
		return "", err
	}
	if len(changed) > 0 {
		return "", fmt.Errorf("the pager's runtime code changed since %s and %s is still %v; increase it, or undo:\n  %s", base, versionFile, now, strings.Join(changed, "\n  "))
	}
	return fmt.Sprintf("pager version %v: its runtime code is that of %s", now, base), nil
}
