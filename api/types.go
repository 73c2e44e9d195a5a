package api

import (
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// Bounds of what a request may ask for.
const (
	// MaxTail is the largest number of lines that a log can be asked to begin with.
	MaxTail = 100_000
	// MaxWaitMS is the longest time to wait for a state, in milliseconds: a day.
	MaxWaitMS = 24 * 60 * 60 * 1000
)

// Instances is the answer to GET /instances, by name.
type Instances struct {
	Instances []instance.Instance `json:"instances"`
}

// Snapshots is the answer to GET /snapshots, by name.
type Snapshots struct {
	Snapshots []instance.Snapshot `json:"snapshots"`
}

// Forks is the answer to a request for forks. At least one of them came to be.
type Forks struct {
	Forks []Fork `json:"forks"`
}

// Fork is one fork of a request. Either Instance or Problem is set.
type Fork struct {
	Name     string             `json:"name"`
	Instance *instance.Instance `json:"instance,omitempty"`
	// Problem says why the fork does not exist.
	Problem *Problem `json:"problem,omitempty"`
}

// Deleted is the answer to a deletion. That there was nothing to delete is no
// error, so that a deletion whose answer was lost can be asked for again.
type Deleted struct {
	Deleted bool `json:"deleted"`
}

// Waited is the answer to a wait.
type Waited struct {
	// Gone tells that the instance no longer exists.
	Gone bool `json:"gone"`
	// Instance describes it otherwise.
	Instance *instance.Instance `json:"instance,omitempty"`
}

// Input is what is typed into a guest's serial console.
type Input struct {
	// Data is base64 in JSON.
	Data []byte `json:"data"`
}

// Pagers is the answer to GET /pagers, by version.
type Pagers struct {
	Pagers []fleet.Pager `json:"pagers"`
}

// UpgradeRequest is the body of POST /pagers/upgrade.
type UpgradeRequest struct {
	// Version is that of the pager that is to take all sessions. Its program has to
	// be installed, unless its pager runs.
	Version string `json:"version"`
}

// Reloaded is the answer to POST /config/reload. Keys are written with dots.
type Reloaded struct {
	// Applied are the keys that changed and are in force from now on.
	Applied []string `json:"applied"`
	// Restart are the keys that changed and wait for a restart of the daemon.
	Restart []string `json:"restart"`
}

// Health is the answer to GET /healthz.
type Health struct {
	// Status is "ok".
	Status   string `json:"status"`
	PID      int    `json:"pid"`
	UptimeMS int64  `json:"uptime_ms"`
	// Instances counts all instances by their state.
	Instances map[string]int `json:"instances"`
}

// Version is the answer to GET /version.
type Version struct {
	// Version is the daemon's.
	Version string `json:"version"`
	// Hypervisor runs the VMMs: "firecracker" or "fcsim".
	Hypervisor        string `json:"hypervisor"`
	HypervisorVersion string `json:"hypervisor_version"`
	// SnapshotVersion is that of the VM states it writes; empty where unknown.
	SnapshotVersion string `json:"snapshot_version,omitempty"`
	// Why says why this hypervisor was chosen.
	Why string `json:"why"`
}
