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

	// Of commands that ask the daemon:
	exitNoDaemon = 3 // none is listening
	exitNotFound = 4 // no such instance or snapshot
	exitConflict = 5 // the state does not allow it, a name is taken, a disk is in use, …
	exitTimeout  = 6 // the state that was waited for did not come
)

type commands struct {
	Create   createCommand   `cmd:"" group:"instances" help:"Make an instance."`
	Start    startCommand    `cmd:"" group:"instances" help:"Boot an instance."`
	Stop     stopCommand     `cmd:"" group:"instances" help:"End an instance's VMM; the guest is not asked."`
	Pause    pauseCommand    `cmd:"" group:"instances" help:"Let the guest stand still."`
	Resume   resumeCommand   `cmd:"" group:"instances" help:"Let the guest go on."`
	Standby  standbyCommand  `cmd:"" group:"instances" help:"Capture an instance and end its VMM."`
	Restore  restoreCommand  `cmd:"" group:"instances" help:"Bring an instance back from its newest capture."`
	Fork     forkCommand     `cmd:"" group:"instances" help:"Make new instances of one that is running, paused or in standby."`
	Delete   deleteCommand   `cmd:"" group:"instances" help:"End and remove instances, in any state."`
	Ps       psCommand       `cmd:"" group:"instances" help:"List the instances."`
	Inspect  inspectCommand  `cmd:"" group:"instances" help:"Describe an instance."`
	Logs     logsCommand     `cmd:"" group:"instances" help:"Print what a guest or its VMM wrote."`
	Send     sendCommand     `cmd:"" group:"instances" help:"Type into a guest's serial console."`
	Wait     waitCommand     `cmd:"" group:"instances" help:"Wait until an instance is in a state, or gone."`
	Events   eventsCommand   `cmd:"" group:"instances" help:"Print what happens, from now on."`
	Snapshot snapshotCommand `cmd:"" group:"instances" help:"Make, list, fork, restore and delete snapshots."`

	Daemon     daemonCommand      `cmd:"" group:"host" help:"Manage the instances of a data directory, until told to end."`
	Stats      daemonStatsCommand `cmd:"" group:"host" help:"Print what the daemon has done: how forks came to their files, what became of memory images."`
	Config     configCommand      `cmd:"" group:"host" help:"Check a configuration, or print one to begin with."`
	Guest      guestCommand       `cmd:"" group:"host" help:"Write the built-in guest."`
	Completion completionCommand  `cmd:"" group:"host" help:"Print the completion script of a shell."`
	Complete   completeCommand    `cmd:"" hidden:"" help:"Print what the last word may become."`

	Demo    demoCommand    `cmd:"" group:"host" help:"Boot a guest, capture it, restore many forks at once and have each check every page."`
	Bench   benchCommand   `cmd:"" group:"host" help:"Measure what this project promises about its speed and size."`
	Chaos   chaosCommand   `cmd:"" group:"host" help:"Kill, stop, crash, upgrade and drain pagers in every combination, and look whether a guest was harmed."`
	Image   imageCommand   `cmd:"" group:"host" help:"List, inspect, verify, flatten, import and export memory images."`
	Pager   pagerCommand   `cmd:"" group:"host" help:"List, upgrade, drain and ask the pagers, and take guests off them."`
	Version versionCommand `cmd:"" group:"host" help:"Print the version."`
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
		kong.ExplicitGroups([]kong.Group{{Key: "instances", Title: "Instances and snapshots"}, {Key: "host", Title: "The host"}}),
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
		return exitCode(err)
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
