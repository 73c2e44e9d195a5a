package config

import (
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// Config is the configuration. See [Sample] for what each key means.
type Config struct {
	DataDir    string
	API        API
	Hypervisor Hypervisor
	Pager      Pager
	Network    Network
	Capture    Capture
	Images     Images
}

// API is where the daemon listens.
type API struct {
	Socket      string
	SocketGroup string
}

// Hypervisor says what runs the VMMs, and how they are restored.
type Hypervisor struct {
	Prefer                           string
	FirecrackerBinary                string
	FirecrackerArguments             []string
	SimulatorBinary                  string
	FirecrackerSnapshotMemoryBackend instance.Backend
	FirecrackerUffdCacheMaxBytes     Size
	FirecrackerMaxConcurrentRestores int
}

// Pager says which pager serves page faults, and what keeps it running.
type Pager struct {
	Binary   string
	Manager  string
	Watchdog time.Duration // 0 is never
}

// Network says how forks come to their taps and their guests to their addresses.
type Network struct {
	TapTemplate          string
	ReconfigureCommand   []string
	ReconfigureVsockPort int
	ReconfigureTimeout   time.Duration
}

// Capture says where captures of running instances are staged.
type Capture struct {
	StageDir     string
	StageBudget  Size
	StageReserve Size
}

// Images says what is done about memory images in the background.
type Images struct {
	FlattenDepth             int
	FlattenSupersededPercent int
	Checksums                bool
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		DataDir: "/var/lib/faultline",
		Hypervisor: Hypervisor{
			Prefer:                           "auto",
			FirecrackerSnapshotMemoryBackend: instance.File,
			FirecrackerUffdCacheMaxBytes:     4 << 30,
			FirecrackerMaxConcurrentRestores: 32,
		},
		Pager:   Pager{Manager: "auto", Watchdog: supervisor.DefaultWatchdog},
		Network: Network{ReconfigureTimeout: 10 * time.Second},
		Capture: Capture{StageDir: "/dev/shm/faultline", StageReserve: 1 << 30},
		Images:  Images{FlattenDepth: 16, FlattenSupersededPercent: 50, Checksums: true},
	}
}

// Changed returns the keys, with dots, whose values differ.
func Changed(a, b Config) []string {
	var paths []string
	for _, k := range keys {
		if k.text(&a) != k.text(&b) {
			paths = append(paths, k.path)
		}
	}
	return paths
}

// BackendKey is the key of the backend of restores that name none, the one key that
// can be changed while a daemon runs.
const BackendKey = "hypervisor.firecracker_snapshot_memory_backend"

// SocketPath returns where the daemon listens.
func (c Config) SocketPath() string {
	if c.API.Socket != "" {
		return c.API.Socket
	}
	return c.DataDir + "/faultline.sock"
}

// Instance returns what of the configuration a Manager takes. Hypervisor, Pager,
// Stages and Logger are the caller's to add.
func (c Config) Instance() instance.Config {
	return instance.Config{
		DataDir:               c.DataDir,
		Backend:               c.Hypervisor.FirecrackerSnapshotMemoryBackend,
		MaxConcurrentRestores: c.Hypervisor.FirecrackerMaxConcurrentRestores,
		TapTemplate:           c.Network.TapTemplate,
		Upkeep: instance.Upkeep{
			Flatten:   memimage.FlattenPolicy{MaxDepth: c.Images.FlattenDepth, MaxSuperseded: float64(c.Images.FlattenSupersededPercent) / 100},
			Checksums: c.Images.Checksums,
		},
		Reconfigure: instance.Reconfigure{
			Command: c.Network.ReconfigureCommand, VsockPort: uint32(c.Network.ReconfigureVsockPort), Timeout: c.Network.ReconfigureTimeout,
		},
	}
}
