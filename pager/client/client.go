// Package client talks to a pager over its control socket.
//
// A Client owns no resources but idle connections; any number of goroutines may
// use it. Errors that the pager answered are *problem.Problem values, so their
// code can be compared with errors.Is; anything else means that the pager could
// not be asked.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/control"
)

// Client is a client of one pager.
type Client struct {
	socket string
	http   http.Client
}

// New returns a client of the pager whose control socket is given. It connects when
// it is used.
func New(socket string) *Client {
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Health asks whether the pager lives, and which it is.
func (c *Client) Health(ctx context.Context) (h control.Health, err error) {
	return h, c.do(ctx, http.MethodGet, "/health", nil, &h)
}

// Stats returns what the pager counts.
func (c *Client) Stats(ctx context.Context) (s control.PagerStats, err error) {
	return s, c.do(ctx, http.MethodGet, "/stats", nil, &s)
}

// Sessions lists the sessions that the pager remembers, those that are over
// included.
func (c *Client) Sessions(ctx context.Context) ([]control.Session, error) {
	var list control.Sessions
	err := c.do(ctx, http.MethodGet, "/sessions", nil, &list)
	return list.Sessions, err
}

// Session describes one session.
func (c *Client) Session(ctx context.Context, id string) (s control.Session, err error) {
	return s, c.do(ctx, http.MethodGet, "/sessions/"+url.PathEscape(id), nil, &s)
}

// CreateSession opens a session. When it returns, the VMM can connect to the
// session's socket.
func (c *Client) CreateSession(ctx context.Context, req control.SessionRequest) (s control.Session, err error) {
	return s, c.do(ctx, http.MethodPost, "/sessions", req, &s)
}

// CloseSession ends a session, and its VMM with it if that still runs. The session
// returned has its final counters.
func (c *Client) CloseSession(ctx context.Context, id string) (s control.Session, err error) {
	return s, c.do(ctx, http.MethodPost, "/sessions/"+url.PathEscape(id)+"/close", nil, &s)
}

// Detach gives the guest all of its memory and ends the session while the guest runs
// on. The end of ctx calls it off; the session then goes on.
func (c *Client) Detach(ctx context.Context, id string) (s control.Session, err error) {
	return s, c.do(ctx, http.MethodPost, "/sessions/"+url.PathEscape(id)+"/detach", nil, &s)
}

// Handover hands all sessions over to another pager, live. This one takes no new
// sessions from then on.
func (c *Client) Handover(ctx context.Context, req control.HandoverRequest) (h control.Handover, err error) {
	return h, c.do(ctx, http.MethodPost, "/handover", req, &h)
}

// Drain makes the pager refuse new sessions, and exit after its last.
func (c *Client) Drain(ctx context.Context) (h control.Health, err error) {
	return h, c.do(ctx, http.MethodPost, "/drain", nil, &h)
}

func (c *Client) do(ctx context.Context, method, path string, body, result any) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("pager request %s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://pager"+path, payload)
	if err != nil {
		return fmt.Errorf("pager request %s %s: %w", method, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the pager at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		p := &problem.Problem{}
		if err := json.NewDecoder(resp.Body).Decode(p); err != nil || p.Code == "" {
			return fmt.Errorf("pager at %s answered %s %s with %s and no problem", c.socket, method, path, resp.Status)
		}
		return p
	}
	if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
		return fmt.Errorf("answer of the pager to %s %s: %w", method, path, err)
	}
	return nil
}
