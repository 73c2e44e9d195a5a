// Package tap makes and removes the tap devices that microVMs get from the daemon.
//
// A tap that is made here carries its maker in its alias (ip link shows it), and is
// persistent: it outlives the process that made it and the VMM that opened it. The
// alias is set before the device becomes persistent, so that whoever dies in between
// leaves none behind; and only devices with the alias are ever removed. What belongs
// to somebody else is left alone, whatever its name.
//
// All of it needs CAP_NET_ADMIN, except for [Host.List], and is about the network
// namespace of the process. The package holds no locks and no descriptors between
// calls; calls about the same name must not overlap.
package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrPermission: the process may not make or remove devices.
var ErrPermission = errors.New("it needs the capability CAP_NET_ADMIN: run the daemon with it, or name taps that exist")

// maxOwner is the longest alias of a device, IFALIASZ without its terminator.
const maxOwner = 255

// device is where taps are made (Linux, Documentation/networking/tuntap.rst).
const device = "/dev/net/tun"

// Host makes and removes the taps of one owner. Make one with [New].
type Host struct{ owner string }

// New returns the Host for an owner, 1 to 255 bytes, that no other program of the
// host uses.
func New(owner string) (Host, error) {
	if owner == "" || len(owner) > maxOwner {
		return Host{}, fmt.Errorf("an owner of %d bytes for taps; use 1 to %d", len(owner), maxOwner)
	}
	return Host{owner}, nil
}

// Make makes a tap of that name, up, which processes of this user may open. Nothing
// happens if the owner has it already; then made is false. A device of somebody else
// is an error.
func (h Host) Make(name string) (made bool, err error) {
	fail := func(err error) (bool, error) { return false, explain("make", name, err) }
	switch owner, exists, err := find(name); {
	case err != nil:
		return fail(err)
	case exists && owner == h.owner:
		return false, nil
	case exists:
		return fail(errors.New("a network device of this name exists and was not made here: remove it, or use another tap template"))
	}
	// EXCL: somebody may have been faster.
	fd, err := attach(name, unix.IFF_TUN_EXCL)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if err := adopt(name, h.owner); err != nil {
		return fail(err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, os.Geteuid()); err != nil {
		return fail(os.NewSyscallError("TUNSETOWNER", err))
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fail(os.NewSyscallError("TUNSETPERSIST", err))
	}
	return true, nil
}

// Remove removes the owner's tap of that name, if there is one. No VMM may have it
// open.
func (h Host) Remove(name string) error {
	owner, exists, err := find(name)
	if err != nil {
		return explain("remove", name, err)
	}
	if !exists || owner != h.owner {
		return nil
	}
	fd, err := attach(name, 0)
	if err != nil {
		return explain("remove", name, err)
	}
	defer unix.Close(fd) // which is what removes it
	return explain("remove", name, os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0)))
}

// List returns the names of all taps of the owner.
func (h Host) List() ([]string, error) {
	var names []string
	err := links(func(name, alias string) {
		if alias == h.owner {
			names = append(names, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list taps: %w", err)
	}
	return names, nil
}

// find returns the alias of a device.
func find(name string) (alias string, exists bool, err error) {
	err = links(func(link, of string) {
		if link == name {
			alias, exists = of, true
		}
	})
	return alias, exists, err
}

// attach opens a tap, which makes one that does not exist. Flags are further ones
// for TUNSETIFF.
func attach(name string, flags uint16) (fd int, err error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, fmt.Errorf("its name is longer than 15 bytes: %w", err)
	}
	if fd, err = unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, &fs.PathError{Op: "open", Path: device, Err: err}
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("TUNSETIFF", err)
	}
	return fd, nil
}

func explain(what, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s the tap %s: %w: %w", what, name, err, ErrPermission)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s the tap %s: %w: load the kernel module tun, or name taps that exist", what, name, err)
	default:
		return fmt.Errorf("%s the tap %s: %w", what, name, err)
	}
}
