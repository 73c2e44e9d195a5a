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
	// Pager finds or starts the pager. It is called when the first session is
	// needed. Its context ends with the Manager, the pager does not. Nil means
	// that there is none: Uffd is then unavailable. See [Supervised].
	Pager func(ctx context.Context) (Pager, error)
	// Stages is where captures of instances that run on are written first; nil
	// means straight to disk. It stays the caller's, who closes it after the
	// Manager.
	Stages *stage.Area
	// TapTemplate makes the taps of forks: "{id}" stands for the first eight
	// characters of the instance's id, "{n}" for the number of its interface from
	// 0. The result has at most 15 bytes. Empty makes none: callers name them.
	TapTemplate string
	// Reconfigure is run after a fork's guest has been resumed.
	Reconfigure Reconfigure
	// Logger receives what nobody asked for: recoveries, states that changed by
	// themselves. Nil discards.
	Logger *slog.Logger
	// Failpoints are for tests; see [Failpoints].
	Failpoints *failpoint.Set
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

// Pager is what a Manager needs of a pager; *client.Client and
// *supervisor.Supervisor have it.
type Pager interface {
	CreateSession(ctx context.Context, req control.SessionRequest) (control.Session, error)
	CloseSession(ctx context.Context, id string) (control.Session, error)
	Sessions(ctx context.Context) ([]control.Session, error)
}

// Supervised returns a Config.Pager that keeps the pager running.
func Supervised(cfg supervisor.Config) func(ctx context.Context) (Pager, error) {
	return func(ctx context.Context) (Pager, error) { return supervisor.Supervise(ctx, cfg) }
}
