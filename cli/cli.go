// Package cli is the command line of faultline: what its commands are called,
// which flags they take, and what they print. The work is done by other packages.
//
// Results go to standard output, everything else to standard error. With --json
// standard output holds exactly one JSON value.
//
// The package owns the process's signals while a command runs: an interrupt ends
// the command's context, and a second one the program.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/faultline-vm/faultline/bench"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the command could not do its work, or what it checked was wrong
	exitUsage  = 2 // the arguments make no sense
)

type commands struct {
	Demo    demoCommand    `cmd:"" help:"Boot a guest, capture it, restore many forks at once and have each check every page."`
	Bench   benchCommand   `cmd:"" help:"Measure what this project promises about its speed and size."`
	Pager   pagerCommand   `cmd:"" help:"Ask a running pager."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// streams are the standard streams of a command.
type streams struct {
	out io.Writer
	err io.Writer
}

// Main runs one command and returns the exit code of the program. Args do not
// contain the program's name.
func Main(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// From the first signal on the default action is in force again: whoever does
	// not want to wait for the clean-up can interrupt that too.
	context.AfterFunc(ctx, stop)
	return run(ctx, args, streams{stdout, stderr})
}

func run(ctx context.Context, args []string, s streams) int {
	var all commands
	done := -1 // set by kong when a flag like --help has been all there was to do
	parser, err := kong.New(&all,
		kong.Name("faultline"),
		kong.Description("Snapshot, restore and fork Firecracker microVMs, with memory paged in lazily."),
		kong.Vars{"bench_groups": strings.Join(bench.Groups(), ",")},
		kong.Writers(s.out, s.err),
		kong.Exit(func(code int) { done = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	if err != nil {
		fmt.Fprintf(s.err, "faultline: %v\n", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	switch {
	case done >= 0:
		return done
	case err != nil:
		fmt.Fprintf(s.err, "faultline: %v; run faultline %s--help\n", err, known(args))
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintf(s.err, "faultline: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// known returns the command among the arguments, for a hint.
func known(args []string) string {
	if strings.HasPrefix(args[0], "-") {
		return ""
	}
	return args[0] + " "
}
