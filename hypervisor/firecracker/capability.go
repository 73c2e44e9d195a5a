package firecracker

import (
	"fmt"
)

// Feature is something a request may ask for that not every version knows.
type Feature string

// The features, named after the request field where there is one. The version
// that brought each, from Firecracker's CHANGELOG.md, is in [introduced].
const (
	MemBackend       Feature = "mem_backend"
	TrackDirtyPages  Feature = "track_dirty_pages"
	NetworkOverrides Feature = "network_overrides"
	VsockOverride    Feature = "vsock_override"
	ClockRealtime    Feature = "clock_realtime"
	HugePages        Feature = "huge_pages"
	FreePageReport   Feature = "free_page_reporting"
	UntrackedDiff    Feature = "Diff snapshots without dirty tracking"
)

// introduced returns the version that brought a feature.
func introduced(f Feature) Version {
	switch f {
	case MemBackend:
		return Version{Major: 1, Minor: 1} // 1.1.0: "Added optional mem_backend body field" to /snapshot/load
	case HugePages:
		return Version{Major: 1, Minor: 7} // 1.7.0, #4360
	case NetworkOverrides:
		return Version{Major: 1, Minor: 12} // 1.12.0, #4731
	case TrackDirtyPages, UntrackedDiff:
		return Version{Major: 1, Minor: 13} // 1.13.0, #5274; at load, replacing enable_diff_snapshots
	case FreePageReport:
		return Version{Major: 1, Minor: 14} // 1.14.0, #5491
	case VsockOverride, ClockRealtime:
		return Version{Major: 1, Minor: 16} // 1.16.0, #5323 and #5809
	default:
		return Version{Major: 1 << 30} // unknown to every version
	}
}

// Supports reports whether the binary knows a feature. The simulator knows all.
func (b Binary) Supports(f Feature) bool {
	return b.Name == Simulator || b.Version.Compare(introduced(f)) >= 0
}

// Require returns an *UnsupportedError for the first feature that the binary
// does not know, or nil.
func (b Binary) Require(features ...Feature) error {
	for _, f := range features {
		if !b.Supports(f) {
			return &UnsupportedError{Feature: f, Binary: b, Minimum: introduced(f)}
		}
	}
	return nil
}

// UnsupportedError says that a binary is too old for what was asked.
type UnsupportedError struct {
	Feature Feature
	Binary  Binary
	Minimum Version
}

// Error names both versions and the remedy.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s needs %s %s, but %s is %s: upgrade it or do without",
		e.Feature, e.Binary.Name, e.Minimum, e.Binary.Path, e.Binary.Version)
}
