package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
)

// Health asks whether the daemon lives.
func (c *Client) Health(ctx context.Context) (h api.Health, err error) {
	return h, c.do(ctx, http.MethodGet, "/healthz", nil, &h)
}

// Version asks which daemon it is, and with which hypervisor.
func (c *Client) Version(ctx context.Context) (v api.Version, err error) {
	return v, c.do(ctx, http.MethodGet, "/version", nil, &v)
}

// Reload has the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context) (r api.Reloaded, err error) {
	return r, c.do(ctx, http.MethodPost, "/config/reload", nil, &r)
}

// Stats asks what was done since the daemon began.
func (c *Client) Stats(ctx context.Context) (s instance.Stats, err error) {
	return s, c.do(ctx, http.MethodGet, "/stats", nil, &s)
}

// Create makes an instance.
func (c *Client) Create(ctx context.Context, r instance.CreateRequest) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, "/instances", r, &i)
}

// Instances lists all instances, by name.
func (c *Client) Instances(ctx context.Context) ([]instance.Instance, error) {
	var list api.Instances
	err := c.do(ctx, http.MethodGet, "/instances", nil, &list)
	return list.Instances, err
}

// Instance describes one instance. Like everywhere, ref is a name, an id, or the
// beginning of exactly one id.
func (c *Client) Instance(ctx context.Context, ref string) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodGet, instancePath(ref, ""), nil, &i)
}

// Start boots an instance.
func (c *Client) Start(ctx context.Context, ref string) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/start"), nil, &i)
}

// Stop ends an instance's VMM. Stopping a stopped one does nothing.
func (c *Client) Stop(ctx context.Context, ref string, r instance.StopRequest) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/stop"), r, &i)
}

// Pause lets the guest stand still.
func (c *Client) Pause(ctx context.Context, ref string) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/pause"), nil, &i)
}

// Resume lets the guest go on.
func (c *Client) Resume(ctx context.Context, ref string) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/resume"), nil, &i)
}

// Standby captures an instance and ends its VMM.
func (c *Client) Standby(ctx context.Context, ref string) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/standby"), nil, &i)
}

// Restore brings an instance back from its newest capture.
func (c *Client) Restore(ctx context.Context, ref string, r instance.RestoreRequest) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, instancePath(ref, "/restore"), r, &i)
}

// Fork makes new instances of the instance r.Source. The error is not nil if none
// came to be; otherwise each fork tells for itself.
func (c *Client) Fork(ctx context.Context, r instance.ForkRequest) ([]api.Fork, error) {
	return c.fork(ctx, instancePath(r.Source, "/fork"), r)
}

// Delete ends an instance and removes it, in any state. It reports whether there was
// one.
func (c *Client) Delete(ctx context.Context, ref string) (bool, error) {
	var answer api.Deleted
	err := c.do(ctx, http.MethodDelete, instancePath(ref, ""), nil, &answer)
	return answer.Deleted, err
}

// Wait waits until an instance is in one of the states, or no longer exists if none
// are given. A timeout of 0 waits as long as ctx lasts.
func (c *Client) Wait(ctx context.Context, ref string, timeout time.Duration, states ...instance.State) (w api.Waited, err error) {
	query := url.Values{}
	for _, state := range states {
		query.Add("state", string(state))
	}
	if timeout > 0 {
		query.Set("timeout_ms", strconv.FormatInt(max(1, timeout.Milliseconds()), 10))
	}
	return w, c.do(ctx, http.MethodGet, instancePath(ref, "/wait")+"?"+query.Encode(), nil, &w)
}

// Send types into the serial console of a running guest.
func (c *Client) Send(ctx context.Context, ref string, input []byte) error {
	return c.do(ctx, http.MethodPost, instancePath(ref, "/input"), api.Input{Data: input}, nil)
}

// LogOptions say what to read of an instance's logs.
type LogOptions struct {
	// Source is "console" or "vmm"; empty means console.
	Source string
	// Tail is the number of lines to begin with; 0 means all.
	Tail int
	// Follow goes on with what is added until the VMM ends.
	Follow bool
}

// Logs copies a log to out. With Follow it returns when the VMM or ctx has ended.
func (c *Client) Logs(ctx context.Context, ref string, o LogOptions, out io.Writer) error {
	query := url.Values{}
	if o.Source != "" {
		query.Set("source", o.Source)
	}
	if o.Tail > 0 {
		query.Set("tail", strconv.Itoa(o.Tail))
	}
	if o.Follow {
		query.Set("follow", "true")
	}
	resp, err := c.send(ctx, http.MethodGet, instancePath(ref, "/logs")+"?"+query.Encode(), nil, false)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// Events calls each for what happens from now on, until it returns an error or ctx
// ends. Only tells the events of one instance; empty tells all. When the daemon ends
// the stream, because it stops or because each is too slow, the error is
// io.ErrUnexpectedEOF. Begun, if not nil, is called when nothing is missed any more.
func (c *Client) Events(ctx context.Context, only string, begun func(), each func(instance.Event) error) error {
	path := "/events"
	if only != "" {
		path += "?instance=" + url.QueryEscape(only)
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil, true)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if begun != nil {
		begun()
	}
	if err := lines(resp.Body, each); err != nil {
		return err
	}
	return fmt.Errorf("the daemon ended the stream of events: %w", io.ErrUnexpectedEOF)
}

// CreateSnapshot makes a snapshot of an instance, which goes on as it was.
func (c *Client) CreateSnapshot(ctx context.Context, ref string, r instance.SnapshotRequest) (s instance.Snapshot, err error) {
	return s, c.do(ctx, http.MethodPost, instancePath(ref, "/snapshot"), r, &s)
}

// Snapshots lists all snapshots, by name.
func (c *Client) Snapshots(ctx context.Context) ([]instance.Snapshot, error) {
	var list api.Snapshots
	err := c.do(ctx, http.MethodGet, "/snapshots", nil, &list)
	return list.Snapshots, err
}

// Snapshot describes one snapshot.
func (c *Client) Snapshot(ctx context.Context, ref string) (s instance.Snapshot, err error) {
	return s, c.do(ctx, http.MethodGet, snapshotPath(ref, ""), nil, &s)
}

// ForkSnapshot makes new instances of a snapshot, like Fork.
func (c *Client) ForkSnapshot(ctx context.Context, ref string, r instance.ForkRequest) ([]api.Fork, error) {
	return c.fork(ctx, snapshotPath(ref, "/fork"), r)
}

// RestoreSnapshot puts the instance that a snapshot was taken of back to it.
func (c *Client) RestoreSnapshot(ctx context.Context, ref string, r instance.RestoreRequest) (i instance.Instance, err error) {
	return i, c.do(ctx, http.MethodPost, snapshotPath(ref, "/restore"), r, &i)
}

// DeleteSnapshot removes a snapshot. It reports whether there was one.
func (c *Client) DeleteSnapshot(ctx context.Context, ref string) (bool, error) {
	var answer api.Deleted
	err := c.do(ctx, http.MethodDelete, snapshotPath(ref, ""), nil, &answer)
	return answer.Deleted, err
}

func (c *Client) fork(ctx context.Context, path string, r instance.ForkRequest) ([]api.Fork, error) {
	var answer api.Forks
	err := c.do(ctx, http.MethodPost, path, r, &answer)
	return answer.Forks, err
}

func instancePath(ref, rest string) string { return "/instances/" + url.PathEscape(ref) + rest }
func snapshotPath(ref, rest string) string { return "/snapshots/" + url.PathEscape(ref) + rest }
