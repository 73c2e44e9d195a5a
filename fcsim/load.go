package fcsim

import (
	"encoding/json"
	"log/slog"
	"os"
	"slices"
)

// loadConfig is the body of PUT /snapshot/load.
type loadConfig struct {
	statePath     string
	backendType   string // backendFile or backendUffd
	backendPath   string
	track         bool
	resume        bool
	networks      []networkOverride
	vsockPath     *string
	clockRealtime bool // accepted: this guest does not look at the time of day
	deprecated    bool // a deprecated member was used
}

type networkOverride struct{ id, hostDevName string }

const (
	backendFile = "File"
	backendUffd = "Uffd"
)

func decodeLoad(body []byte) (loadConfig, error) {
	var c loadConfig
	var memFile *string
	var backend, vsock json.RawMessage
	var networks []json.RawMessage
	var enableDiff bool
	err := decode(body,
		member{"snapshot_path", &c.statePath, required, nil},
		member{"mem_file_path", &memFile, optional, nil},
		member{"mem_backend", &backend, optional, nil},
		member{"enable_diff_snapshots", &enableDiff, defaulted, nil},
		member{"track_dirty_pages", &c.track, defaulted, nil},
		member{"resume_vm", &c.resume, defaulted, nil},
		member{"network_overrides", &networks, defaulted, nil},
		member{"vsock_override", &vsock, optional, nil},
		member{"clock_realtime", &c.clockRealtime, defaulted, nil},
	)
	if err != nil {
		return c, err
	}
	c.deprecated = memFile != nil || enableDiff
	c.track = c.track || enableDiff
	switch {
	case memFile != nil && backend != nil:
		return c, bodyFault(faultf("too many fields: either `mem_backend` or `mem_file_path` exclusively is required"))
	case memFile == nil && backend == nil:
		return c, bodyFault(faultf("missing field: either `mem_backend` or `mem_file_path` is required"))
	case memFile != nil:
		c.backendType, c.backendPath = backendFile, *memFile
	default:
		err = decode(backend,
			member{"backend_path", &c.backendPath, required, nil},
			member{"backend_type", &c.backendType, required, []string{backendFile, backendUffd}})
	}
	for _, raw := range networks {
		if err == nil {
			var o networkOverride
			err = decodeOpen(raw, member{"iface_id", &o.id, required, nil}, member{"host_dev_name", &o.hostDevName, required, nil})
			c.networks = append(c.networks, o)
		}
	}
	if vsock != nil && err == nil {
		c.vsockPath = new(string)
		err = decodeOpen(vsock, member{"uds_path", c.vsockPath, required, nil})
	}
	return c, err
}

// loadState reads the VM state and applies the overrides to it.
func loadState(c loadConfig) (*vmState, error) {
	file, err := os.Open(c.statePath)
	if err != nil {
		return nil, faultf("Failed to get snapshot state from file: Failed to open snapshot file: %w", osFault(err))
	}
	defer func() { _ = file.Close() }() // only read from
	data, err := readState(file)
	if err == nil {
		var s *vmState
		if s, err = decodeState(data); err == nil {
			return s, s.override(c)
		}
	}
	return nil, faultf("Failed to get snapshot state from file: Failed to load snapshot state from file: %w", err)
}

func (s *vmState) override(c loadConfig) error {
	for _, o := range c.networks {
		at := slices.IndexFunc(s.Nets, func(n netConfig) bool { return n.ID == o.id })
		if at < 0 {
			return faultf("Failed to get snapshot state from file: Unknown Network Device.")
		}
		s.Nets[at].HostDevName = o.hostDevName
	}
	if c.vsockPath != nil {
		if s.Vsock == nil {
			return faultf("Failed to get snapshot state from file: Unknown Vsock Device.")
		}
		s.Vsock.Path = *c.vsockPath
	}
	return nil
}

// loadMemory maps the guest memory of s. The link is nil for the File backend.
func loadMemory(s *vmState, c loadConfig, log *slog.Logger) (*memory, *pagerLink, error) {
	options := memoryOptions{spans: s.Spans, page: s.Machine.pageSize(), track: c.track}
	if c.backendType == backendFile {
		m, err := memoryFromFile(c.backendPath, options)
		if err != nil {
			return nil, nil, faultf("Failed to load guest memory: Error creating guest memory from file: %w", err)
		}
		return m, nil, nil
	}
	m, err := mapMemory(options)
	if err != nil {
		return nil, nil, faultf("Failed to load guest memory: Error creating guest memory from uffd: Failed to restore guest memory: %w", err)
	}
	link, err := m.delegate(c.backendPath, log)
	if err != nil {
		return nil, nil, faultf("Failed to load guest memory: Error creating guest memory from uffd: %w", err)
	}
	return m, link, nil
}

func memoryFromFile(path string, o memoryOptions) (*memory, error) {
	if o.page != pageSize {
		return nil, faultf("Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, faultf("Failed to load guest memory: %w", osFault(err))
	}
	defer func() { _ = file.Close() }() // the mapping keeps the file
	info, err := file.Stat()
	if err != nil {
		return nil, faultf("Failed to restore guest memory: Cannot retrieve snapshot file metadata: %w", osFault(err))
	}
	size := uint64(0)
	for _, s := range o.spans {
		size += s.Size
	}
	// The kernel would map beyond the end and kill whoever reads there.
	if uint64(info.Size()) < size {
		return nil, faultf("Failed to restore guest memory: Total sum of memory regions exceeds largest possible file offset: %s has %d bytes, the guest %d", path, info.Size(), size)
	}
	o.file = file
	m, err := mapMemory(o)
	if err != nil {
		return nil, faultf("Failed to restore guest memory: %w", err)
	}
	return m, nil
}

// restoreDevices opens what the VM state names.
func restoreDevices(s *vmState) (*devices, error) {
	d := &devices{nets: s.Nets}
	for _, c := range s.Drives {
		opened, err := openDrive(c)
		if err != nil {
			d.close()
			return nil, faultf("Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: Block: %w", err)
		}
		d.drives = append(d.drives, opened)
	}
	if s.Vsock != nil {
		var err error
		if d.vsock, err = openVsock(*s.Vsock); err != nil {
			d.close()
			return nil, faultf("Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: VsockUnixBackend: %w", err)
		}
	}
	return d, nil
}
