package fcsim

import (
	"encoding/json"
	"net"
)

// The requests about devices.

func (m *machine) putDrive(path string, body []byte) error {
	id, err := checkedID(path)
	if err != nil {
		return err
	}
	c := driveConfig{CacheType: "Unsafe", Engine: "Sync"}
	if err := decode(body, c.members()...); err != nil {
		return err
	}
	if c.ID != id {
		return faultf("The id from the path does not match the id from the body!")
	}
	return m.plugin(func() error {
		if err := m.devices.insert(c); err != nil {
			return faultf("Drive config error: %w", err)
		}
		return nil
	})
}

// plugin is preboot for devices that Firecracker can plug into a running guest
// when it has PCI, which is not simulated.
func (m *machine) plugin(f func() error) error {
	m.mu.Lock()
	started := m.phase != notStarted
	m.mu.Unlock()
	if started {
		return faultf("PCI is not enabled")
	}
	return m.preboot(f)
}

func (m *machine) patchDrive(path string, body []byte) error {
	id, err := checkedID(path)
	if err != nil {
		return err
	}
	var bodyID string
	var file *string
	var limiter json.RawMessage
	err = decode(body,
		member{"drive_id", &bodyID, required, nil},
		member{"path_on_host", &file, optional, nil},
		member{"rate_limiter", &limiter, optional, nil},
	)
	if err != nil {
		return err
	}
	if bodyID != id {
		return faultf("The id from the path does not match the id from the body!")
	}
	return m.postboot(func() error {
		drive, err := m.devices.drive(id)
		switch {
		case err != nil:
		case file != nil:
			if err = drive.replace(*file); err != nil {
				err = faultf("Block: %w", err)
			}
		case limiter == nil:
			err = faultf("Block: Running method expected different backend.")
		}
		if err != nil {
			return faultf("Drive config error: Unable to patch the block device: %w Please verify the request arguments.", err)
		}
		return nil
	})
}

func (m *machine) putNetwork(path string, body []byte) error {
	id, err := checkedID(path)
	if err != nil {
		return err
	}
	var c netConfig
	if err := decode(body, c.members()...); err != nil {
		return err
	}
	if c.MAC != nil {
		if mac, err := net.ParseMAC(*c.MAC); err != nil || len(mac) != 6 {
			return bodyFault(faultf("The provided MAC address is invalid."))
		}
	}
	if c.ID != id {
		return mismatch(id, c.ID)
	}
	return m.plugin(func() error {
		if err := m.devices.plug(c); err != nil {
			return faultf("Network config error: %w", err)
		}
		return nil
	})
}

func mismatch(path, body string) error {
	return faultf("The id from the path [%s] does not match the id from the body [%s]!", path, body)
}

// patchNetwork knows only rate limiters, which do nothing here.
func (m *machine) patchNetwork(path string, body []byte) error {
	id, err := checkedID(path)
	if err != nil {
		return err
	}
	var bodyID string
	var receive, send json.RawMessage
	err = decode(body,
		member{"iface_id", &bodyID, required, nil},
		member{"rx_rate_limiter", &receive, optional, nil},
		member{"tx_rate_limiter", &send, optional, nil},
	)
	if err != nil {
		return err
	}
	if bodyID != id {
		return mismatch(id, bodyID)
	}
	return m.postboot(func() error {
		for _, n := range m.devices.nets {
			if n.ID == id {
				return nil
			}
		}
		return faultf("Network config error: Unable to update the net device: %w", errNoDevice())
	})
}

func errNoDevice() error { return faultf("Failed perform action on device: Device not found") }

func (m *machine) putVsock(body []byte) (reply, error) {
	var c vsockConfig
	if err := decode(body, c.members()...); err != nil {
		return reply{}, err
	}
	err := m.preboot(func() error {
		if old := m.devices.vsock; old != nil {
			m.devices.vsock = nil
			if err := old.remove(); err != nil {
				return faultf("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: %w", osFault(err))
			}
		}
		opened, err := openVsock(c)
		if err != nil {
			return faultf("Vsock config error: Cannot create backend for vsock device: %w", err)
		}
		m.devices.vsock = opened
		return nil
	})
	return reply{deprecated: c.ID != nil}, err
}

func (m *machine) putBalloon(body []byte) error {
	var c balloonConfig
	if err := decode(body, c.members()...); err != nil {
		return err
	}
	return m.preboot(func() error {
		if uint64(c.AmountMiB) > m.config.MemSizeMiB {
			return faultf("Balloon config error: Amount of pages requested is too large.")
		}
		m.balloon = &balloon{config: c}
		return nil
	})
}

// getBalloon is called with machine.mu held.
func (m *machine) getBalloon(rest string) (reply, error) {
	switch {
	case rest == "" && m.balloon != nil:
		return reply{body: m.balloon.config}, nil
	case rest == "" && m.phase == notStarted:
		return reply{}, faultf("Balloon config error: No balloon device found.")
	case rest == "":
		return reply{}, faultf("Internal VMM error: %w", errNoDevice())
	case rest != "statistics":
		return reply{}, faultf("Unrecognized GET request path `%s`.", rest)
	case m.phase == notStarted:
		return reply{}, errPreBoot()
	case m.balloon == nil:
		return reply{}, faultf("Internal VMM error: %w", errNoDevice())
	case m.balloon.config.StatsInterval == 0:
		return reply{}, faultf("Internal VMM error: Balloon: Received stats query when stats are disabled.")
	}
	return reply{body: m.balloon.statistics(m.mem, m.cpus.w)}, nil
}

func (m *machine) patchBalloon(rest string, body []byte) error {
	var amount uint32
	var interval uint16
	var err error
	if rest == "statistics" {
		err = decode(body, member{"stats_polling_interval_s", &interval, required, nil})
	} else {
		err = decode(body, member{"amount_mib", &amount, required, nil})
	}
	if err != nil {
		return err
	}
	return m.postboot(func() error {
		switch b := m.balloon; {
		case b == nil:
			return faultf("Balloon update error: %w", errNoDevice())
		case rest == "statistics" && (interval == 0) != (b.config.StatsInterval == 0):
			return faultf("Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.")
		case rest == "statistics":
			b.config.StatsInterval = interval
		case uint64(amount)<<20 > m.mem.size:
			return faultf("Balloon update error: Balloon: Requested memory should be less than %dMiB", amount)
		default:
			// The guest's driver does the work once the request is answered.
			b.config.AmountMiB = amount
			m.kickBalloon()
		}
		return nil
	})
}
