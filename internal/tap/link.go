package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// links calls each for every network device, with its alias.
func links(each func(name, alias string)) error {
	table, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		var name, alias string
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				name = text(a.Value)
			case unix.IFLA_IFALIAS:
				alias = text(a.Value)
			}
		}
		each(name, alias)
	}
	return nil
}

// text is a value without its terminator.
func text(value []byte) string {
	s, _, _ := strings.Cut(string(value), "\x00")
	return s
}

// adopt gives a device its alias and sets it up.
func adopt(name, alias string) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	conn, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(conn)
	if err := unix.Sendto(conn, setLink(link.Index, alias), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(conn, answer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	return acknowledged(answer[:n])
}

// setLink is the request that sets a device up and gives it an alias: a struct
// nlmsghdr, a struct ifinfomsg, and one struct rtattr with its text (rtnetlink(7)).
func setLink(index int, alias string) []byte {
	const length = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	attribute := unix.SizeofRtAttr + len(alias)
	m := make([]byte, 0, length+attribute+3)
	native := binary.NativeEndian
	m = native.AppendUint32(m, uint32(length+(attribute+3)&^3))
	m = native.AppendUint16(m, unix.RTM_SETLINK)
	m = native.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = native.AppendUint32(m, 1)          // sequence
	m = native.AppendUint32(m, 0)          // port: the kernel fills it in
	m = append(m, unix.AF_UNSPEC, 0, 0, 0) // family, padding, type
	m = native.AppendUint32(m, uint32(index))
	m = native.AppendUint32(m, unix.IFF_UP) // flags
	m = native.AppendUint32(m, unix.IFF_UP) // which of them to change
	m = native.AppendUint16(m, uint16(attribute))
	m = native.AppendUint16(m, unix.IFLA_IFALIAS)
	m = append(m, alias...)
	return append(m, make([]byte, (4-len(m)%4)%4)...)
}

// acknowledged reads the kernel's answer to a request.
func acknowledged(answer []byte) error {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	for _, m := range messages {
		if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
			return fmt.Errorf("netlink: an answer of type %d", m.Header.Type)
		}
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
			return os.NewSyscallError("RTM_SETLINK", syscall.Errno(-code))
		}
		return nil
	}
	return errors.New("netlink: an empty answer")
}
