package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/tap"
	"github.com/faultline-vm/faultline/memimage/stage"
	"github.com/faultline-vm/faultline/pager/fleet"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// FailpointsEnv is the environment variable that holds the failpoints of a daemon. It
// is not failpoint.Env, which a pager that the daemon starts finds too: that has
// other points.
const FailpointsEnv = "FAULTLINE_DAEMON_FAILPOINTS"

// Configure finds the programs that the configuration leaves open, and returns what
// [Run] needs.
func Configure(ctx context.Context, c config.Config, version string, log *slog.Logger) (Config, error) {
	choice, err := firecracker.Choose(ctx, firecracker.Selection{
		Prefer:      firecracker.Preference(c.Hypervisor.Prefer),
		Firecracker: c.Hypervisor.FirecrackerBinary, Simulator: c.Hypervisor.SimulatorBinary,
	})
	if err != nil {
		return Config{}, err
	}
	hypervisor := firecracker.Config{Binary: choice.Binary}
	if choice.Binary.Name == firecracker.Real {
		hypervisor.ExtraArgs = c.Hypervisor.FirecrackerArguments
	}
	out := Config{
		Instances: c.Instance(), Why: choice.Why, Version: version, Log: log,
		Socket: c.SocketPath(), Group: c.API.SocketGroup, Loaded: c,
	}
	out.Instances.Hypervisor, out.Instances.Logger = firecracker.New(hypervisor), log
	if out.Instances.Failpoints, err = failpoint.Parse(os.Getenv(FailpointsEnv), instance.Failpoints()...); err != nil {
		return Config{}, fmt.Errorf("%s: %w", FailpointsEnv, err)
	}
	// The simulator opens no taps.
	if c.Network.TapTemplate != "" && choice.Binary.Name == firecracker.Real {
		if out.Instances.Taps, err = tap.New("faultline " + c.DataDir); err != nil {
			return Config{}, fmt.Errorf("data_dir: %w", err)
		}
	}
	if c.Capture.StageBudget > 0 {
		out.Stages = &stage.Config{
			Dir: c.Capture.StageDir, Budget: uint64(c.Capture.StageBudget), Reserve: uint64(c.Capture.StageReserve),
		}
	}
	out.Instances.Pager, err = pagers(c, log)
	return out, err
}

// pagers returns what finds or starts the pager of a version. That there is no program is an
// error only when a pager is needed, unless one was configured.
func pagers(c config.Config, log *slog.Logger) (func(ctx context.Context, version string) (instance.Pager, error), error) {
	if c.Pager.Binary != "" {
		if _, err := os.Stat(c.Pager.Binary); err != nil {
			return nil, fmt.Errorf("configured pager: %w", err)
		}
	}
	return instance.Supervised(supervision(c, log), func(ctx context.Context, version string) (string, error) {
		return fleet.Program(ctx, c.Pager.Binary, version)
	}), nil
}

// supervision says how pagers are kept running.
func supervision(c config.Config, log *slog.Logger) supervisor.Config {
	watchdog := c.Pager.Watchdog
	if watchdog == 0 {
		watchdog = -1 // 0 is the supervisor's default
	}
	return supervisor.Config{
		Options:  supervisor.Options{DataDir: c.DataDir, CacheMaxBytes: uint64(c.Hypervisor.FirecrackerUffdCacheMaxBytes)},
		Manager:  supervisor.Manager(strings.TrimPrefix(c.Pager.Manager, "auto")),
		Watchdog: watchdog,
		Logger:   log,
	}
}
