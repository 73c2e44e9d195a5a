package firecracker

// The bodies of Firecracker's API, as far as this package uses it (source: its
// src/firecracker/swagger/firecracker.yaml). Fields that a version may not know
// are left out of the JSON when they are zero.

// InstanceInfo answers GET /.
type InstanceInfo struct {
	ID         string `json:"id"`
	State      string `json:"state"` // "Not started", "Running" or "Paused"
	VMMVersion string `json:"vmm_version"`
	AppName    string `json:"app_name"`
}

// MachineConfig is the body of /machine-config.
type MachineConfig struct {
	VCPUCount       int    `json:"vcpu_count"`
	MemSizeMiB      int    `json:"mem_size_mib"`
	SMT             bool   `json:"smt,omitempty"`
	TrackDirtyPages bool   `json:"track_dirty_pages,omitempty"`
	HugePages       string `json:"huge_pages,omitempty"` // "None" or "2M"
}

// BootSource is the body of PUT /boot-source.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"`
	InitrdPath      string `json:"initrd_path,omitempty"`
	BootArgs        string `json:"boot_args,omitempty"`
}

// Drive is the body of PUT /drives/{id}.
type Drive struct {
	DriveID      string `json:"drive_id"`
	PathOnHost   string `json:"path_on_host"`
	IsRootDevice bool   `json:"is_root_device"`
	IsReadOnly   bool   `json:"is_read_only"`
}

// DriveUpdate is the body of PATCH /drives/{id}.
type DriveUpdate struct {
	DriveID    string `json:"drive_id"`
	PathOnHost string `json:"path_on_host,omitempty"`
}

// NetworkInterface is the body of PUT /network-interfaces/{id}.
type NetworkInterface struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
	GuestMAC    string `json:"guest_mac,omitempty"`
}

// Vsock is the body of PUT /vsock.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"`
	UDSPath  string `json:"uds_path"`
}

// Balloon is the body of PUT and GET /balloon.
type Balloon struct {
	AmountMiB             int  `json:"amount_mib"`
	DeflateOnOOM          bool `json:"deflate_on_oom"`
	StatsPollingIntervalS int  `json:"stats_polling_interval_s,omitempty"`
	FreePageReporting     bool `json:"free_page_reporting,omitempty"`
}

// BalloonStatistics answers GET /balloon/statistics. Pages are of 4 KiB. The
// guest's own figures are in bytes and 0 until the guest has sent them.
type BalloonStatistics struct {
	TargetPages     int    `json:"target_pages"`
	ActualPages     int    `json:"actual_pages"`
	TargetMiB       int    `json:"target_mib"`
	ActualMiB       int    `json:"actual_mib"`
	FreeMemory      uint64 `json:"free_memory,omitempty"`
	TotalMemory     uint64 `json:"total_memory,omitempty"`
	AvailableMemory uint64 `json:"available_memory,omitempty"`
}

// Logger is the body of PUT /logger.
type Logger struct {
	LogPath string `json:"log_path,omitempty"`
	Level   string `json:"level,omitempty"` // Error, Warning, Info, Debug, Trace or Off
}

// Metrics is the body of PUT /metrics.
type Metrics struct {
	MetricsPath string `json:"metrics_path"`
}

// SnapshotCreate is the body of PUT /snapshot/create.
type SnapshotCreate struct {
	SnapshotType string `json:"snapshot_type,omitempty"` // "Full" or "Diff"
	SnapshotPath string `json:"snapshot_path"`
	MemFilePath  string `json:"mem_file_path"`
}

// SnapshotLoad is the body of PUT /snapshot/load.
type SnapshotLoad struct {
	SnapshotPath string        `json:"snapshot_path"`
	MemBackend   MemoryBackend `json:"mem_backend"`
	ResumeVM     bool          `json:"resume_vm,omitempty"`
	// TrackDirtyPages is spelled EnableDiffSnapshots before 1.13.
	TrackDirtyPages     bool              `json:"track_dirty_pages,omitempty"`
	EnableDiffSnapshots bool              `json:"enable_diff_snapshots,omitempty"`
	NetworkOverrides    []NetworkOverride `json:"network_overrides,omitempty"`
	VsockOverride       *VsockPath        `json:"vsock_override,omitempty"`
	ClockRealtime       bool              `json:"clock_realtime,omitempty"`
}

// MemoryBackend says where restored memory comes from.
type MemoryBackend struct {
	BackendType string `json:"backend_type"` // "File" or "Uffd"
	BackendPath string `json:"backend_path"`
}

// NetworkOverride gives an interface of the snapshot another tap.
type NetworkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// VsockPath replaces the path of the snapshot's vsock socket.
type VsockPath struct {
	UDSPath string `json:"uds_path"`
}
