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
	"github.com/faultline-vm/faultline/memimage/stage"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

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
		Socket: c.SocketPath(), Group: c.API.SocketGroup,
	}
	out.Instances.Hypervisor, out.Instances.Logger = firecracker.New(hypervisor), log
	if out.Instances.Failpoints, err = failpoint.Parse(os.Getenv(failpoint.Env), instance.Failpoints()...); err != nil {
		return Config{}, fmt.Errorf("%s: %w", failpoint.Env, err)
	}
	if c.Capture.StageBudget > 0 {
		out.Stages = &stage.Config{
			Dir: c.Capture.StageDir, Budget: uint64(c.Capture.StageBudget), Reserve: uint64(c.Capture.StageReserve),
		}
	}
	out.Instances.Pager, err = pagers(c, log)
	return out, err
}

// pagers returns what finds or starts the pager. That there is no program is an
// error only when a pager is needed, unless one was configured.
func pagers(c config.Config, log *slog.Logger) (func(context.Context) (instance.Pager, error), error) {
	if c.Pager.Binary != "" {
		if _, err := os.Stat(c.Pager.Binary); err != nil {
			return nil, fmt.Errorf("configured pager: %w", err)
		}
	}
	return func(ctx context.Context) (instance.Pager, error) {
		binary, err := supervisor.FindBinary(c.Pager.Binary)
		if err != nil {
			return nil, err
		}
		return supervisor.Supervise(ctx, supervisor.Config{
			Options: supervisor.Options{
				Binary: binary, DataDir: c.DataDir, CacheMaxBytes: uint64(c.Hypervisor.FirecrackerUffdCacheMaxBytes),
			},
			Manager: supervisor.Manager(strings.TrimPrefix(c.Pager.Manager, "auto")),
			Logger:  log,
		})
	}, nil
}
