package fcsim

import "encoding/json"

// machineConfig is the body of PUT and the answer of GET /machine-config.
type machineConfig struct {
	VCPUs       uint8  `json:"vcpu_count"`
	MemSizeMiB  uint64 `json:"mem_size_mib"`
	SMT         bool   `json:"smt"`
	CPUTemplate string `json:"cpu_template,omitempty"`
	Track       bool   `json:"track_dirty_pages"`
	HugePages   string `json:"huge_pages"` // hugePagesNone or hugePages2M
}

const (
	hugePagesNone = "None"
	hugePages2M   = "2M"
	maxVCPUs      = 32
	// maxMemoryMiB is the most that Firecracker maps on x86, 1022 GiB.
	maxMemoryMiB = 1022 << 10
)

func defaultMachine() machineConfig {
	return machineConfig{VCPUs: 1, MemSizeMiB: 128, HugePages: hugePagesNone}
}

// members are the members of the body; with need optional those of PATCH.
func (c *machineConfig) members(need need) []member {
	others := max(need, defaulted)
	return []member{
		{"vcpu_count", &c.VCPUs, need, nil},
		{"mem_size_mib", &c.MemSizeMiB, need, nil},
		{"smt", &c.SMT, others, nil},
		{"cpu_template", &c.CPUTemplate, optional, []string{"C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"}},
		{"track_dirty_pages", &c.Track, others, nil},
		{"huge_pages", &c.HugePages, others, []string{hugePagesNone, hugePages2M}},
	}
}

func (c *machineConfig) validate() error {
	if c.VCPUs == 0 || c.VCPUs > maxVCPUs || c.SMT && c.VCPUs > 1 && c.VCPUs%2 == 1 {
		return faultf("The number of vCPUs must be greater than 0, less than %d and must be 1 or an even number if SMT is enabled.", maxVCPUs)
	}
	if c.MemSizeMiB == 0 || c.HugePages == hugePages2M && c.MemSizeMiB%2 != 0 {
		return faultf("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	}
	if c.MemSizeMiB > maxMemoryMiB {
		return faultf("The memory size (MiB) must not exceed %d.", maxMemoryMiB)
	}
	return nil
}

// pageSize is the size in bytes of the pages that back guest memory.
func (c *machineConfig) pageSize() uint64 {
	if c.HugePages == hugePages2M {
		return hugePageSize
	}
	return pageSize
}

// bootSource is the body of PUT /boot-source.
type bootSource struct {
	Kernel   string  `json:"kernel_image_path"`
	Initrd   *string `json:"initrd_path"`
	BootArgs *string `json:"boot_args"`
}

func (b *bootSource) members() []member {
	return []member{
		{"kernel_image_path", &b.Kernel, required, nil},
		{"initrd_path", &b.Initrd, optional, nil},
		{"boot_args", &b.BootArgs, optional, nil},
	}
}

// driveConfig is the body of PUT /drives. Rate limiters are kept and ignored.
type driveConfig struct {
	ID          string          `json:"drive_id"`
	PartUUID    *string         `json:"partuuid"`
	Root        bool            `json:"is_root_device"`
	CacheType   string          `json:"cache_type"`
	ReadOnly    bool            `json:"is_read_only"`
	Path        *string         `json:"path_on_host"`
	RateLimiter json.RawMessage `json:"rate_limiter"`
	Engine      string          `json:"io_engine"`
	Socket      *string         `json:"socket"`
}

func (d *driveConfig) members() []member {
	return []member{
		{"drive_id", &d.ID, required, nil},
		{"partuuid", &d.PartUUID, optional, nil},
		{"is_root_device", &d.Root, required, nil},
		{"cache_type", &d.CacheType, defaulted, []string{"Unsafe", "Writeback"}},
		{"is_read_only", &d.ReadOnly, optional, nil},
		{"path_on_host", &d.Path, optional, nil},
		{"rate_limiter", &d.RateLimiter, optional, nil},
		{"io_engine", &d.Engine, optional, []string{"Sync", "Async"}},
		{"socket", &d.Socket, optional, nil},
	}
}

// netConfig is the body of PUT /network-interfaces.
type netConfig struct {
	ID          string          `json:"iface_id"`
	HostDevName string          `json:"host_dev_name"`
	MAC         *string         `json:"guest_mac"`
	MTU         *uint16         `json:"mtu"`
	RXLimiter   json.RawMessage `json:"rx_rate_limiter"`
	TXLimiter   json.RawMessage `json:"tx_rate_limiter"`
}

func (n *netConfig) members() []member {
	return []member{
		{"iface_id", &n.ID, required, nil},
		{"host_dev_name", &n.HostDevName, required, nil},
		{"guest_mac", &n.MAC, optional, nil},
		{"mtu", &n.MTU, optional, nil},
		{"rx_rate_limiter", &n.RXLimiter, optional, nil},
		{"tx_rate_limiter", &n.TXLimiter, optional, nil},
	}
}

// vsockConfig is the body of PUT /vsock.
type vsockConfig struct {
	ID   *string `json:"vsock_id,omitempty"` // deprecated
	CID  uint32  `json:"guest_cid"`
	Path string  `json:"uds_path"`
}

func (v *vsockConfig) members() []member {
	return []member{
		{"vsock_id", &v.ID, optional, nil},
		{"guest_cid", &v.CID, required, nil},
		{"uds_path", &v.Path, required, nil},
	}
}

func (b *balloonConfig) members() []member {
	return []member{
		{"amount_mib", &b.AmountMiB, required, nil},
		{"deflate_on_oom", &b.DeflateOnOOM, required, nil},
		{"stats_polling_interval_s", &b.StatsInterval, defaulted, nil},
		{"free_page_hinting", &b.FreePageHinting, defaulted, nil},
		{"free_page_reporting", &b.FreePageReporting, defaulted, nil},
	}
}

// vmConfig is the answer of GET /vm/config; null stands for what is not
// configured or not simulated.
type vmConfig struct {
	Balloon       *balloonConfig `json:"balloon"`
	Drives        []driveConfig  `json:"drives"`
	BootSource    bootSource     `json:"boot-source"`
	CPUConfig     *struct{}      `json:"cpu-config"`
	Logger        *struct{}      `json:"logger"`
	Machine       machineConfig  `json:"machine-config"`
	Metrics       *struct{}      `json:"metrics"`
	MMDSConfig    *struct{}      `json:"mmds-config"`
	Networks      []netConfig    `json:"network-interfaces"`
	Vsock         *vsockConfig   `json:"vsock"`
	Entropy       *struct{}      `json:"entropy"`
	Pmem          []struct{}     `json:"pmem"`
	MemoryHotplug *struct{}      `json:"memory-hotplug"`
}
