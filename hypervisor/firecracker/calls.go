package firecracker

import (
	"context"
	"net/http"
	"net/url"
)

// The calls of the API, one method each. They return an *APIError when the VMM
// refuses and any other error when it could not be asked.

// Info asks for the state of the VMM. It is answered in every state, even while
// the vCPUs wait for a page.
func (c *Client) Info(ctx context.Context) (InstanceInfo, error) {
	var info InstanceInfo
	return info, c.get(ctx, "/", &info)
}

// Version asks for the program's version, without a leading v.
func (c *Client) Version(ctx context.Context) (string, error) {
	var answer struct {
		Version string `json:"firecracker_version"`
	}
	err := c.get(ctx, "/version", &answer)
	return answer.Version, err
}

// MachineConfig asks for the machine's configuration.
func (c *Client) MachineConfig(ctx context.Context) (MachineConfig, error) {
	var config MachineConfig
	return config, c.get(ctx, "/machine-config", &config)
}

// SetMachineConfig sets it, before boot.
func (c *Client) SetMachineConfig(ctx context.Context, config MachineConfig) error {
	return c.put(ctx, "/machine-config", config)
}

// SetBootSource sets kernel, initrd and boot arguments, before boot.
func (c *Client) SetBootSource(ctx context.Context, source BootSource) error {
	return c.put(ctx, "/boot-source", source)
}

// AddDrive adds a block device, before boot.
func (c *Client) AddDrive(ctx context.Context, drive Drive) error {
	return c.put(ctx, "/drives/"+url.PathEscape(drive.DriveID), drive)
}

// UpdateDrive points a block device of a running microVM at another file.
func (c *Client) UpdateDrive(ctx context.Context, update DriveUpdate) error {
	return c.patch(ctx, "/drives/"+url.PathEscape(update.DriveID), update)
}

// AddNetworkInterface adds a network interface, before boot.
func (c *Client) AddNetworkInterface(ctx context.Context, network NetworkInterface) error {
	return c.put(ctx, "/network-interfaces/"+url.PathEscape(network.IfaceID), network)
}

// SetVsock adds the vsock device, before boot.
func (c *Client) SetVsock(ctx context.Context, vsock Vsock) error {
	return c.put(ctx, "/vsock", vsock)
}

// SetBalloon adds the balloon device, before boot.
func (c *Client) SetBalloon(ctx context.Context, balloon Balloon) error {
	return c.put(ctx, "/balloon", balloon)
}

// Balloon asks for the balloon's configuration.
func (c *Client) Balloon(ctx context.Context) (Balloon, error) {
	var balloon Balloon
	return balloon, c.get(ctx, "/balloon", &balloon)
}

// UpdateBalloon sets the balloon's target of a running microVM.
func (c *Client) UpdateBalloon(ctx context.Context, mib int) error {
	return c.patch(ctx, "/balloon", struct {
		AmountMiB int `json:"amount_mib"`
	}{mib})
}

// BalloonStatistics asks for the balloon's statistics. It is refused where they
// were not turned on at boot.
func (c *Client) BalloonStatistics(ctx context.Context) (BalloonStatistics, error) {
	var statistics BalloonStatistics
	return statistics, c.get(ctx, "/balloon/statistics", &statistics)
}

// SetLogger configures the VMM's log, before boot or load.
func (c *Client) SetLogger(ctx context.Context, logger Logger) error {
	return c.put(ctx, "/logger", logger)
}

// SetMetrics configures the VMM's metrics, before boot or load.
func (c *Client) SetMetrics(ctx context.Context, metrics Metrics) error {
	return c.put(ctx, "/metrics", metrics)
}

// StartInstance boots the configured microVM.
func (c *Client) StartInstance(ctx context.Context) error { return c.act(ctx, "InstanceStart") }

// FlushMetrics writes the metrics out.
func (c *Client) FlushMetrics(ctx context.Context) error { return c.act(ctx, "FlushMetrics") }

// SendCtrlAltDel presses the keys in the guest; x86 only.
func (c *Client) SendCtrlAltDel(ctx context.Context) error { return c.act(ctx, "SendCtrlAltDel") }

// Pause stops the vCPUs.
func (c *Client) Pause(ctx context.Context) error { return c.setState(ctx, "Paused") }

// Resume lets the vCPUs run.
func (c *Client) Resume(ctx context.Context) error { return c.setState(ctx, "Resumed") }

// CreateSnapshot writes the paused microVM to files.
func (c *Client) CreateSnapshot(ctx context.Context, create SnapshotCreate) error {
	return c.put(ctx, "/snapshot/create", create)
}

// LoadSnapshot loads a snapshot into a VMM in which nothing but logger and
// metrics were configured. The VMM exits after a load that fails.
func (c *Client) LoadSnapshot(ctx context.Context, load SnapshotLoad) error {
	return c.put(ctx, "/snapshot/load", load)
}

func (c *Client) act(ctx context.Context, action string) error {
	return c.put(ctx, "/actions", struct {
		ActionType string `json:"action_type"`
	}{action})
}

func (c *Client) setState(ctx context.Context, state string) error {
	return c.patch(ctx, "/vm", struct {
		State string `json:"state"`
	}{state})
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.Do(ctx, http.MethodGet, path, nil, out)
}

func (c *Client) put(ctx context.Context, path string, in any) error {
	return c.Do(ctx, http.MethodPut, path, in, nil)
}

func (c *Client) patch(ctx context.Context, path string, in any) error {
	return c.Do(ctx, http.MethodPatch, path, in, nil)
}
