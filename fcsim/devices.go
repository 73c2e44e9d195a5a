package fcsim

import (
	"net"
	"os"
	"slices"
)

// devices are what the guest is plugged into. They are opened when configured or
// restored, under the paths as given: relative ones count from the working
// directory, also those of a VM state that another process wrote elsewhere.
type devices struct {
	drives []*drive
	nets   []netConfig
	vsock  *vsock
}

type drive struct {
	config driveConfig
	file   *os.File
}

// openDrive opens the backing file; nothing is ever read from it.
func openDrive(c driveConfig) (*drive, error) {
	if c.Path == nil || c.Socket != nil {
		return nil, faultf("Invalid block config.")
	}
	file, err := openDriveFile(*c.Path, c.ReadOnly)
	if err != nil {
		return nil, err
	}
	return &drive{config: c, file: file}, nil
}

func openDriveFile(path string, readOnly bool) (*os.File, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, faultf("Virtio backend error: Error manipulating the backing file: %w %s", osFault(err), path)
	}
	return file, nil
}

// replace points the drive at another file.
func (d *drive) replace(path string) error {
	file, err := openDriveFile(path, d.config.ReadOnly)
	if err != nil {
		return err
	}
	old := d.file
	d.file, d.config.Path = file, &path
	return old.Close()
}

// insert adds a drive or replaces the one of the same id; the root drive is first.
func (d *devices) insert(c driveConfig) error {
	at := slices.IndexFunc(d.drives, func(other *drive) bool { return other.config.ID == c.ID })
	if c.Root && len(d.drives) > 0 && d.drives[0].config.Root && at != 0 {
		return faultf("A root block device already exists!")
	}
	opened, err := openDrive(c)
	if err != nil {
		return faultf("Unable to create the virtio block device: %w", err)
	}
	if at >= 0 {
		_ = d.drives[at].file.Close() // it was never read or written
		d.drives = slices.Delete(d.drives, at, at+1)
	} else {
		at = len(d.drives)
	}
	if c.Root {
		at = 0
	}
	d.drives = slices.Insert(d.drives, at, opened)
	return nil
}

func (d *devices) drive(id string) (*drive, error) {
	for _, found := range d.drives {
		if found.config.ID == id {
			return found, nil
		}
	}
	return nil, faultf("Failed perform action on device: Device not found")
}

// maxInterfaceName is IFNAMSIZ without its terminator.
const maxInterfaceName = 15

// plug records a network interface, replacing the one of the same id.
func (d *devices) plug(c netConfig) error {
	if c.MAC != nil {
		for _, other := range d.nets {
			if other.ID != c.ID && other.MAC != nil && *other.MAC == *c.MAC {
				return faultf("The MAC address is already in use: %s", *c.MAC)
			}
		}
	}
	if c.HostDevName == "" || len(c.HostDevName) > maxInterfaceName {
		return faultf("Could not create the network device: Open tap device failed: Invalid interface name")
	}
	d.nets = slices.DeleteFunc(d.nets, func(other netConfig) bool { return other.ID == c.ID })
	d.nets = append(d.nets, c)
	return nil
}

func (d *devices) driveConfigs() []driveConfig {
	configs := []driveConfig{}
	for _, drive := range d.drives {
		configs = append(configs, drive.config)
	}
	return configs
}

// vsock is the host's side of the device: a listening socket. Firecracker leaves
// its file behind when it exits, and so does this.
type vsock struct {
	config   vsockConfig
	listener *net.UnixListener
}

// openVsock fails if anything exists at the path.
func openVsock(c vsockConfig) (*vsock, error) {
	listener, err := listenUnix(c.Path)
	if err != nil {
		return nil, faultf("Error binding to the host-side Unix socket: %w", osFault(err))
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			// The guest listens on no port.
			_ = conn.Close()
		}
	}()
	return &vsock{config: c, listener: listener}, nil
}

// remove makes room for another configuration: the socket's file goes, too.
func (v *vsock) remove() error {
	_ = v.listener.Close()
	return os.Remove(v.config.Path)
}

func listenUnix(path string) (*net.UnixListener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// close lets go of everything; the files on disk stay.
func (d *devices) close() {
	for _, drive := range d.drives {
		_ = drive.file.Close()
	}
	if d.vsock != nil {
		_ = d.vsock.listener.Close()
	}
}
