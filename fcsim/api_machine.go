package fcsim

import "net/http"

// The requests that configure and steer the machine as a whole. Bodies are judged
// before the state is, as Firecracker does, so that a malformed request gets the
// same answer in every state.

// preboot runs f, which configures something, if the guest has not started. A
// machine that was configured does not load snapshots any more.
func (m *machine) preboot(f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != notStarted {
		return errPostBoot()
	}
	m.configured = true
	return f()
}

// postboot runs f if the guest has started.
func (m *machine) postboot(f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == notStarted {
		return errPreBoot()
	}
	return f()
}

func (m *machine) putAction(body []byte) error {
	var action string
	if err := decode(body, member{"action_type", &action, required, []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}}); err != nil {
		return err
	}
	switch action {
	case "InstanceStart":
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.start()
	case "FlushMetrics":
		return m.postboot(m.metrics.flush)
	default:
		// This guest has no keyboard driver, so nothing comes of it.
		return m.postboot(func() error { return nil })
	}
}

func (m *machine) putMachine(body []byte) (reply, error) {
	c := defaultMachine()
	if err := decode(body, c.members(required)...); err != nil {
		return reply{}, err
	}
	return m.setMachine(func(current machineConfig) machineConfig {
		if c.CPUTemplate == "" {
			c.CPUTemplate = current.CPUTemplate
		}
		return c
	}, c.CPUTemplate != "")
}

func (m *machine) patchMachine(body []byte) (reply, error) {
	var probe machineConfig
	if err := decode(body, probe.members(optional)...); err != nil {
		return reply{}, err
	}
	if probe == (machineConfig{}) && string(body) == "{}" {
		return reply{}, faultf("Empty PATCH request.")
	}
	return m.setMachine(func(current machineConfig) machineConfig {
		_ = decode(body, current.members(optional)...) // it was decoded once
		return current
	}, probe.CPUTemplate != "")
}

// setMachine replaces the configuration by what change makes of it.
func (m *machine) setMachine(change func(machineConfig) machineConfig, deprecated bool) (reply, error) {
	err := m.preboot(func() error {
		c := change(m.config)
		if c.CPUTemplate == "None" {
			c.CPUTemplate = ""
		}
		if err := c.validate(); err != nil {
			return faultf("Machine config error: %w", err)
		}
		if m.balloon != nil && uint64(m.balloon.config.AmountMiB) > c.MemSizeMiB {
			return faultf("Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.")
		}
		m.config = c
		return nil
	})
	return reply{deprecated: deprecated}, err
}

func (m *machine) putBootSource(body []byte) error {
	b := bootSource{}
	if err := decode(body, b.members()...); err != nil {
		return err
	}
	return m.preboot(func() error {
		if err := openKernel(b); err != nil {
			return err
		}
		m.boot = &b
		return nil
	})
}

func (m *machine) putLogger(body []byte) error {
	var c logConfig
	var ignored string
	var origin bool
	err := decode(body,
		member{"log_path", &c.path, optional, nil},
		member{"level", &c.level, optional, nil},
		member{"show_level", &c.showLevel, optional, nil},
		member{"show_log_origin", &origin, optional, nil},
		member{"module", &ignored, optional, nil},
	)
	if err != nil {
		return err
	}
	if _, err := parseLevel(c.level); err != nil {
		return bodyFault(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != notStarted {
		return errPostBoot()
	}
	if err := m.target.configure(c); err != nil {
		return faultf("Logger error: %w", err)
	}
	return nil
}

func (m *machine) putMetrics(body []byte) error {
	var path string
	if err := decode(body, member{"metrics_path", &path, required, nil}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != notStarted {
		return errPostBoot()
	}
	return m.metrics.configure(path)
}

func (m *machine) patchVM(body []byte) error {
	var state string
	if err := decode(body, member{"state", &state, required, []string{"Paused", "Resumed"}}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if state == "Paused" {
		return m.pause()
	}
	return m.resume()
}

func (m *machine) putSnapshot(what string, body []byte) (reply, error) {
	switch what {
	case "create":
		c := snapshotConfig{kind: snapshotFull}
		if err := decode(body, c.members()...); err != nil {
			return reply{}, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return reply{}, m.snapshot(c)
	case "load":
		c, err := decodeLoad(body)
		if err != nil {
			return reply{}, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return reply{deprecated: c.deprecated}, m.load(c)
	case "":
		return reply{}, faultf("Missing snapshot operation type.")
	}
	return reply{}, noRoute(http.MethodPut, "/snapshot/"+what)
}

func (m *machine) fullConfig() vmConfig {
	c := vmConfig{Drives: m.devices.driveConfigs(), Machine: m.config, Networks: m.devices.nets, Pmem: []struct{}{}}
	if c.Networks == nil {
		c.Networks = []netConfig{}
	}
	if m.boot != nil {
		c.BootSource = *m.boot
	}
	if m.balloon != nil {
		c.Balloon = &m.balloon.config
	}
	if m.devices.vsock != nil {
		v := m.devices.vsock.config
		v.ID = nil
		c.Vsock = &v
	}
	return c
}
