package faulter

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/faultline-vm/faultline/uffd"
)

// mapping is an element of the handshake, as Firecracker 1.12 to 1.16 sends it.
type mapping struct {
	BaseHostVirtAddr uint64 `json:"base_host_virt_addr"`
	Size             uint64 `json:"size"`
	Offset           uint64 `json:"offset"`
	PageSize         uint64 `json:"page_size"`
	// PageSizeKiB is in bytes too: Firecracker kept the misnomer.
	PageSizeKiB uint64 `json:"page_size_kib"`
}

// Payload returns the JSON that Firecracker would send for the child's memory.
func (p *Process) Payload() ([]byte, error) {
	return payload(p.greeting.Regions)
}

func payload(regions []Region) ([]byte, error) {
	mappings := make([]mapping, len(regions))
	for i, r := range regions {
		mappings[i] = mapping{r.Address, r.Size, r.Offset, r.PageSize, r.PageSize}
	}
	return json.Marshal(mappings)
}

// Attachment is a descriptor that a handshake carries.
type Attachment int

// The attachments of a [Raw] handshake.
const (
	AttachUserfaultfd Attachment = iota + 1 // the child's userfaultfd
	AttachNull                              // /dev/null
)

// Raw is a handshake that need not be one Firecracker would make.
type Raw struct {
	// Parts are the payload, each part one write. None means that the child
	// connects and says nothing.
	Parts [][]byte
	// Attach goes with the part number AttachTo, counted from 0.
	Attach   []Attachment
	AttachTo int
}

// Handshake makes the child connect to a unix socket and send what Firecracker
// sends: its mappings and its userfaultfd in one message. The connection stays
// open until [Process.HangUp] or the child's end.
func (p *Process) Handshake(socket string) error {
	text, err := p.Payload()
	if err != nil {
		return err
	}
	return p.HandshakeRaw(socket, Raw{Parts: [][]byte{text}, Attach: []Attachment{AttachUserfaultfd}})
}

// HandshakeRaw makes the child connect to a unix socket and send whatever raw
// says. The peer sees the child as the connecting process. The connection stays
// open until [Process.HangUp] or the child's end.
func (p *Process) HandshakeRaw(socket string, raw Raw) error {
	return p.do(request{Op: opHandshake, Path: socket, Raw: raw})
}

// HangUp makes the child close all connections of its handshakes.
func (p *Process) HangUp() error {
	return p.do(request{Op: opHangUp})
}

// handshake is the child's part of HandshakeRaw.
func (c *child) handshake(socket string, raw Raw) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	if err := c.sendParts(conn, raw); err != nil {
		return errors.Join(err, conn.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return nil
}

func (c *child) sendParts(conn *net.UnixConn, raw Raw) error {
	for i, part := range raw.Parts {
		var attach []Attachment
		if i == raw.AttachTo {
			attach = raw.Attach
		}
		if err := c.sendPart(conn, part, attach); err != nil {
			return fmt.Errorf("part %d of the handshake: %w", i, err)
		}
	}
	return nil
}

func (c *child) sendPart(conn *net.UnixConn, part []byte, attach []Attachment) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return c.fd.Use(func(raw int) error {
		var fds []int
		for _, a := range attach {
			switch a {
			case AttachUserfaultfd:
				fds = append(fds, raw)
			case AttachNull:
				fds = append(fds, int(null.Fd()))
			default:
				return fmt.Errorf("unknown attachment %d", a)
			}
		}
		return uffd.SendFD(conn, part, fds...)
	})
}

func (c *child) hangUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	c.conns = nil
	return errors.Join(errs...)
}
