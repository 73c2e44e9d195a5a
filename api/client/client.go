// Package client talks to the instance manager's daemon over its unix socket.
//
// A Client owns no resources but idle connections; any number of goroutines may use
// it. Errors that the daemon answered are *api.Problem values, so that their code
// can be compared; [ErrNoDaemon] is in the tree of an error that says that nobody
// listens. An operation ends with its context: the daemon undoes what it had begun.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/faultline-vm/faultline/api"
)

// ErrNoDaemon says that no daemon listens on the socket.
var ErrNoDaemon = errors.New("no daemon is listening")

// Client is a client of one daemon.
type Client struct {
	socket string
	report api.Report
	http   *http.Client
}

// New returns a client of the daemon that listens on the unix socket. It connects
// when it is used.
func New(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Reporting returns a client of the same daemon whose long operations report their
// progress. The two share their connections.
func (c *Client) Reporting(report api.Report) *Client {
	return &Client{socket: c.socket, report: report, http: c.http}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do sends body, if there is one, and decodes the answer into result, if it is not
// nil.
func (c *Client) do(ctx context.Context, method, path string, body, result any) error {
	resp, err := c.send(ctx, method, path, body, c.report != nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	if resp.Header.Get("Content-Type") == api.StreamType {
		return c.follow(decoder, method, path, result)
	}
	if result == nil {
		return nil
	}
	if err := decoder.Decode(result); err != nil {
		return fmt.Errorf("answer of the daemon to %s %s: %w", method, path, err)
	}
	return nil
}

// follow reads the stream of an operation to its end.
func (c *Client) follow(decoder *json.Decoder, method, path string, result any) error {
	for {
		var m api.Message
		if err := decoder.Decode(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("the daemon broke its answer to %s %s off: %w; look at its log", method, path, err)
		}
		switch {
		case m.Problem != nil:
			return m.Problem
		case m.Progress != nil && c.report != nil:
			c.report(*m.Progress)
		case m.Result != nil && result != nil:
			if err := json.Unmarshal(m.Result, result); err != nil {
				return fmt.Errorf("answer of the daemon to %s %s: %w", method, path, err)
			}
			return nil
		case m.Result != nil:
			return nil
		}
	}
}

// send makes a request. An answer that is a problem is returned as the error; the
// caller closes the body of any other.
func (c *Client) send(ctx context.Context, method, path string, body any, stream bool) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("request %s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://faultline"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("request %s %s: %w", method, path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if stream {
		req.Header.Set("Accept", api.StreamType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w at %s", ErrNoDaemon, c.socket)
		}
		return nil, fmt.Errorf("asking the daemon at %s: %w", c.socket, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &api.Problem{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(p); err != nil || p.Code == "" {
		return nil, fmt.Errorf("the daemon at %s answered %s %s with %s and no problem", c.socket, method, path, resp.Status)
	}
	return nil, p
}

// lines reads a stream of JSON objects, one per line, until it ends.
func lines[T any](body io.Reader, each func(T) error) error {
	scanner := bufio.NewScanner(body)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var value T
		if err := json.Unmarshal(scanner.Bytes(), &value); err != nil {
			return fmt.Errorf("line %.80q of the daemon's stream: %w", scanner.Text(), err)
		}
		if err := each(value); err != nil {
			return err
		}
	}
	return scanner.Err()
}
