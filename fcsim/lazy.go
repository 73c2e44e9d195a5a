package fcsim

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"

	"github.com/faultline-vm/faultline/uffd"
)

// pagerLink is what ties a guest to its pager. Firecracker keeps both for its
// whole life: a pager that dies freezes the guest instead of giving it zeros, and
// the end of the connection tells the pager that the VMM is gone.
type pagerLink struct {
	fd   *uffd.FD
	conn *net.UnixConn
}

func (l *pagerLink) close() error { return errors.Join(l.conn.Close(), l.fd.Close()) }

// mapping is one element of the handshake.
type mapping struct {
	BaseHostVirtAddr uint64 `json:"base_host_virt_addr"`
	Size             uint64 `json:"size"`
	Offset           uint64 `json:"offset"`
	PageSize         uint64 `json:"page_size"`     // bytes
	PageSizeKiB      uint64 `json:"page_size_kib"` // bytes, too: Firecracker's mistake, kept for old pagers
}

// delegate hands the guest's page faults to the pager that listens at path, in
// Firecracker's order: create, register, connect once, send everything in one
// message, and expect no answer.
func (m *memory) delegate(path string, log *slog.Logger) (*pagerLink, error) {
	fd, userModeOnly, err := uffd.OpenBest()
	if err != nil {
		return nil, faultf("Failed to UFFD object: %w", err)
	}
	log.Info("Opened userfaultfd", "user_mode_only", userModeOnly)
	conn, err := m.handshake(fd, path)
	if err != nil {
		return nil, errors.Join(err, fd.Close())
	}
	m.backing = lazy
	return &pagerLink{fd: fd, conn: conn}, nil
}

func (m *memory) handshake(fd *uffd.FD, path string) (*net.UnixConn, error) {
	if _, err := fd.API(uffd.UFFD_FEATURE_EVENT_REMOVE); err != nil {
		return nil, faultf("Failed to UFFD object: %w", err)
	}
	mappings := make([]mapping, len(m.regions))
	for i := range m.regions {
		r := &m.regions[i]
		whole := uffd.Range{Start: r.address(), Len: r.Size}
		if _, err := fd.Register(whole, uffd.UFFDIO_REGISTER_MODE_MISSING); err != nil {
			return nil, faultf("Failed to register memory address range with the userfaultfd object: %w", err)
		}
		mappings[i] = mapping{r.address(), r.Size, r.offset, m.page, m.page}
	}
	payload, err := json.Marshal(mappings)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, faultf("Failed to connect to UDS Unix stream: %w", osFault(err))
	}
	err = fd.Use(func(raw int) error { return uffd.SendFD(conn, payload, raw) })
	if err != nil {
		return nil, errors.Join(faultf("Failed to sends file descriptor: %w", osFault(err)), conn.Close())
	}
	return conn, nil
}
