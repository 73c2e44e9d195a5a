package instance

import (
	"context"
	"log/slog"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/memimage/stage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// Config says how a Manager works. It must not be changed after [Open].
type Config struct {
	// DataDir is the data directory. It is made where it is missing; its parent
	// must exist. Required.
	DataDir string
	// Hypervisor runs the VMMs. Required.
	Hypervisor hypervisor.Hypervisor
	// Backend is the backend of restores that name none; empty means File.
	Backend Backend
	// MaxConcurrentRestores bounds the VMMs that are brought up at the same time;
	// 0 means 32.
	MaxConcurrentRestores int
	// Pager finds or starts the pager of a version, for this data directory. It is
	// called when a session of that version is needed or found first, and again when
	// its pager has ended. Its context ends with the Manager, the pager does not. Nil
	// means that there are none: Uffd is then unavailable. See [Supervised].
	Pager func(ctx context.Context, version string) (Pager, error)
	// Stages is where captures of instances that run on are written first; nil
	// means straight to disk. It stays the caller's, who closes it after the
	// Manager.
	Stages *stage.Area
	// Upkeep says what is done about memory images in the background.
	Upkeep Upkeep
	// TapTemplate names the taps of forks, and of instances that are created without:
	// "{id}" stands for the first eight characters of the instance's id, "{n}" for
	// the number of its interface from 0. The result has at most 15 bytes. Empty
	// names none: callers do.
	TapTemplate string
	// Taps makes and removes the taps that the template names. Nil leaves that to
	// others: they have to exist when a VMM starts.
	Taps Taps
	// Reconfigure is run after a fork's guest has been resumed.
	Reconfigure Reconfigure
	// Logger receives what nobody asked for: recoveries, states that changed by
	// themselves. Nil discards.
	Logger *slog.Logger
	// Failpoints are for tests; see [Failpoints].
	Failpoints *failpoint.Set
}

// Taps makes and removes tap devices, which it can tell from those of others. Calls
// about different names may overlap. A tap.Host has it.
type Taps interface {
	// Make makes a tap. One that was made here before is left as it is; then made is
	// false. A device of somebody else is an error.
	Make(name string) (made bool, err error)
	// Remove removes a tap that was made here. Others are left alone, and one that
	// is gone is no error.
	Remove(name string) error
	// List returns the names of all that were made here.
	List() ([]string, error)
}

// Reconfigure tells a fork's guest its new address. At most one of Command and
// VsockPort may be set.
type Reconfigure struct {
	// Command is a program with its arguments. It finds in its environment
	// FAULTLINE_INSTANCE_ID, FAULTLINE_INSTANCE_NAME, FAULTLINE_INSTANCE_DIR,
	// FAULTLINE_VSOCK (the host's end, if there is one) and for each interface
	// FAULTLINE_TAP_<interface id>. An exit status other than 0 fails the fork.
	Command []string
	// VsockPort is where the guest listens. It gets one line of JSON, and answers
	// "ok" and a line feed; anything else fails the fork. See [ReconfigureMessage].
	VsockPort uint32
	// Timeout bounds the step; 0 means 10 s.
	Timeout time.Duration
}

// Pager is what a Manager needs of a pager that runs; *client.Client and
// *supervisor.Supervisor have it. What has to do with a single session is asked on
// the control socket of the version that has it.
type Pager interface {
	CreateSession(ctx context.Context, req control.SessionRequest) (control.Session, error)
	Sessions(ctx context.Context) ([]control.Session, error)
}

// Supervised returns a Config.Pager that keeps pagers running. Program returns the
// path of the program of a version; that there is none matters only where neither
// systemd runs that pager nor one is found running.
func Supervised(cfg supervisor.Config, program func(ctx context.Context, version string) (string, error)) func(ctx context.Context, version string) (Pager, error) {
	return func(ctx context.Context, version string) (Pager, error) {
		path, missing := program(ctx, version)
		own := cfg
		own.Version, own.Binary = version, path
		s, err := supervisor.Supervise(ctx, own)
		switch {
		case err == nil:
			return s, nil
		case missing != nil && cfg.Manager != supervisor.Systemd:
			return nil, missing
		}
		return nil, err
	}
}
