package config

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/hostmemory"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager"
)

// Validate reports every fault of the configuration on this host, as an *Error.
func (c Config) Validate() error {
	if faults := c.faults(); len(faults) > 0 {
		return &Error{File: "configuration", Faults: faults}
	}
	return nil
}

func (c Config) faults() []Fault {
	var faults []Fault
	fault := func(key, format string, args ...any) {
		faults = append(faults, Fault{Key: key, Message: fmt.Sprintf(format, args...)})
	}
	oneOf := func(key, value string, choices ...string) {
		for _, choice := range choices {
			if value == choice {
				return
			}
		}
		fault(key, "%.40q is not among %v", value, choices)
	}
	absolute := func(key, path string, optional bool) {
		if !filepath.IsAbs(path) && (path != "" || !optional) {
			fault(key, "%.200q is not an absolute path", path)
		}
	}
	absolute("data_dir", c.DataDir, false)
	absolute("api.socket", c.API.Socket, true)
	// sun_path has 108 bytes, the last of them zero (unix(7)).
	if path := c.SocketPath(); len(path) > 107 {
		fault("api.socket", "%.200q is longer than the 107 bytes of a socket's address", path)
	}
	oneOf("hypervisor.prefer", c.Hypervisor.Prefer, "auto", "firecracker", "fcsim")
	oneOf(BackendKey, string(c.Hypervisor.FirecrackerSnapshotMemoryBackend),
		string(instance.File), string(instance.Uffd), string(instance.Auto))
	if n := c.Hypervisor.FirecrackerMaxConcurrentRestores; n < 1 || n > 10_000 {
		fault("hypervisor.firecracker_max_concurrent_restores", "%d is not between 1 and 10000", n)
	}
	oneOf("pager.manager", c.Pager.Manager, "auto", "child", "systemd")
	// A pager gives four signs of life in this time.
	if w := c.Pager.Watchdog; w != 0 && (w < time.Second || w > time.Hour) {
		fault("pager.watchdog", "%v is neither 0s nor between 1s and 1h", w)
	}
	if err := instance.ValidateTapTemplate(c.Network.TapTemplate); err != nil {
		fault("network.tap_template", "%v", err)
	}
	if p := c.Network.ReconfigureVsockPort; p < 0 || p > 1<<31-1 {
		fault("network.reconfigure_vsock_port", "%d is no port", p)
	} else if p != 0 && len(c.Network.ReconfigureCommand) > 0 {
		fault("network.reconfigure_vsock_port", "there is a reconfigure_command as well: use one of them")
	}
	if c.Network.ReconfigureTimeout <= 0 {
		fault("network.reconfigure_timeout", "%v is no time to wait", c.Network.ReconfigureTimeout)
	}
	absolute("capture.stage_dir", c.Capture.StageDir, c.Capture.StageBudget == 0)
	if n := c.Images.FlattenDepth; n < 0 || n > memimage.MaxLayers {
		fault("images.flatten_depth", "%d is not between 0 and %d", n, memimage.MaxLayers)
	}
	if n := c.Images.FlattenSupersededPercent; n < 0 || n > 99 {
		fault("images.flatten_superseded_percent", "%d is not between 0 and 99", n)
	}
	total, err := hostmemory.Total()
	if err != nil {
		fault("", "%v", err)
		return faults
	}
	if s := c.Hypervisor.FirecrackerUffdCacheMaxBytes; s < pager.MinCacheBytes || uint64(s) > total {
		fault("hypervisor.firecracker_uffd_cache_max_bytes", "%v is not between %v and the host's memory, %d bytes", s, Size(pager.MinCacheBytes), total)
	}
	atMost := func(key string, s Size) {
		if uint64(s) > total {
			fault(key, "%v is more than the host's memory, %d bytes", s, total)
		}
	}
	atMost("capture.stage_budget", c.Capture.StageBudget)
	atMost("capture.stage_reserve", c.Capture.StageReserve)
	return faults
}
