package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

type createCommand struct {
	daemonAddress
	Name            string        `arg:"" optional:"" help:"The instance's name: lower-case letters, digits and dashes. Default is made of its id."`
	Kernel          string        `required:"" type:"path" help:"An uncompressed kernel."`
	Initrd          string        `type:"path" help:"An initial RAM disk."`
	BootArgs        string        `help:"The kernel's command line; default is the VMM's."`
	VCPUs           int           `name:"vcpus" default:"1" help:"Virtual CPUs, 1 to 32."`
	Mem             size          `default:"256MiB" help:"Memory of the guest, whole MiB."`
	HugePages       bool          `help:"Back the guest with 2 MiB pages from the host's pool."`
	Drive           []driveFlag   `sep:"none" placeholder:"ID=PATH[,ro][,root]" help:"A block device; may be repeated. A writable one gets a private copy of the file."`
	Network         []networkFlag `sep:"none" placeholder:"ID[=TAP][,mac=MAC]" help:"A network interface; may be repeated. Without a tap it is named by the daemon's template."`
	VsockCID        uint32        `name:"vsock-cid" help:"Give the guest a vsock device of this context id, at least 3."`
	Balloon         bool          `help:"Give the guest a balloon device."`
	IdentityAddress uint64        `help:"Where the guest looks for its identity page; see docs/daemon.md."`
	Start           bool          `help:"Start it too."`
	JSON            bool          `name:"json" help:"Print JSON."`
}

func (c createCommand) Run(ctx context.Context, s streams) error {
	request := instance.CreateRequest{Name: c.Name, Spec: instance.Spec{
		Kernel: c.Kernel, Initrd: c.Initrd, BootArgs: c.BootArgs,
		VCPUs: c.VCPUs, MemoryBytes: uint64(c.Mem), HugePages: c.HugePages,
		VsockCID: c.VsockCID, Balloon: c.Balloon, IdentityAddress: c.IdentityAddress,
	}}
	for _, d := range c.Drive {
		request.Spec.Drives = append(request.Spec.Drives, instance.Drive(d))
	}
	for _, n := range c.Network {
		request.Spec.Networks = append(request.Spec.Networks, instance.Network(n))
	}
	return c.change(s, "create "+c.Name, c.JSON, func(d *client.Client) (instance.Instance, error) {
		made, err := d.Create(ctx, request)
		if err != nil || !c.Start {
			return made, err
		}
		started, err := d.Start(ctx, made.ID)
		if err != nil {
			err = fmt.Errorf("%s was created and could not be started: %w", made.ID, err)
		}
		return started, err
	})
}

// driveFlag is a drive, written like root=disk.img,ro,root.
type driveFlag instance.Drive

// UnmarshalText reads ID=PATH[,ro][,root]. A path with a comma cannot be given.
func (d *driveFlag) UnmarshalText(text []byte) error {
	id, rest, ok := strings.Cut(string(text), "=")
	path, options, _ := strings.Cut(rest, ",")
	if !ok || id == "" || path == "" {
		return fmt.Errorf("%q is not a drive: write it like data=disk.img or root=disk.img,ro,root", text)
	}
	// The daemon has another working directory.
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	*d = driveFlag{ID: id, Source: path}
	for _, option := range fields(options) {
		switch option {
		case "ro":
			d.ReadOnly = true
		case "root":
			d.Root = true
		default:
			return fmt.Errorf("drive %s: %q is neither ro nor root", id, option)
		}
	}
	return nil
}

// networkFlag is a network interface, written like eth0=tap3,mac=06:00:00:00:00:01.
type networkFlag instance.Network

// UnmarshalText reads ID[=TAP][,mac=MAC].
func (n *networkFlag) UnmarshalText(text []byte) error {
	first, options, _ := strings.Cut(string(text), ",")
	id, tap, _ := strings.Cut(first, "=")
	if id == "" {
		return fmt.Errorf("%q is not a network interface: write it like eth0=tap0 or eth0", text)
	}
	*n = networkFlag{ID: id, Tap: tap}
	for _, option := range fields(options) {
		mac, ok := strings.CutPrefix(option, "mac=")
		if !ok {
			return fmt.Errorf("network interface %s: %q is no mac=MAC", id, option)
		}
		n.MAC = mac
	}
	return nil
}

// tapFlag gives an interface of a fork another tap, written like eth0=tap7.
type tapFlag instance.Tap

// UnmarshalText reads ID=TAP.
func (t *tapFlag) UnmarshalText(text []byte) error {
	id, tap, ok := strings.Cut(string(text), "=")
	if !ok || id == "" || tap == "" {
		return fmt.Errorf("%q is not a tap: write it like eth0=tap7", text)
	}
	*t = tapFlag{ID: id, Tap: tap}
	return nil
}

func fields(options string) []string {
	if options == "" {
		return nil
	}
	return strings.Split(options, ",")
}
