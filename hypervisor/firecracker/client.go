package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"unicode/utf8"
)

// maxResponse bounds an answer of the VMM in bytes. The largest one, the full
// configuration, is a few KiB.
const maxResponse = 1 << 20

// Client calls the API on a VMM's unix socket. It keeps no connections and no
// goroutines between calls, needs no closing, and is safe for concurrent use;
// the VMM handles one request at a time. Calls end with their context and have
// no deadline of their own: a load waits for the pager, a snapshot for the disk.
type Client struct {
	http http.Client
}

// NewClient returns a client of the socket at path. Nothing is dialed yet. The
// path may be longer than a socket address, see [DialSocket].
func NewClient(path string) *Client {
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return DialSocket(ctx, path) },
		// One connection per call: Firecracker allows ten, and a connection kept
		// would cost two goroutines per VMM.
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}}
}

// APIError is a request that the VMM refused.
type APIError struct {
	// Status is the HTTP status; Firecracker answers 400 to what it refuses.
	Status int
	Method string
	Path   string
	// FaultMessage is the VMM's explanation, or the start of its answer where
	// that is not in the usual form.
	FaultMessage string
}

// Error returns the request, the status and the VMM's explanation.
func (e *APIError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %s", e.Method, e.Path, e.Status, e.FaultMessage)
}

// Do makes one request. In is sent as JSON unless it is nil; the answer is
// decoded into out unless that is nil. A status other than 2xx is an *APIError.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: encode request: %w", method, path, err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: read answer: %w", method, path, err)
	case len(answer) > maxResponse:
		return fmt.Errorf("%s %s: the answer is larger than %d bytes: this is no Firecracker", method, path, maxResponse)
	case resp.StatusCode/100 != 2:
		return &APIError{Status: resp.StatusCode, Method: method, Path: path, FaultMessage: faultMessage(answer)}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: decode answer: %w", method, path, err)
	}
	return nil
}

// maxFault bounds a fault message in bytes: it ends up in errors and records.
const maxFault = 4096

// faultMessage takes the explanation out of an error body, or the body itself.
func faultMessage(body []byte) string {
	var fault struct {
		Message string `json:"fault_message"`
	}
	text := string(body)
	if json.Unmarshal(body, &fault) == nil && fault.Message != "" {
		text = fault.Message
	}
	if len(text) > maxFault {
		text = text[:maxFault]
		for len(text) > 0 && !utf8.ValidString(text[len(text)-min(len(text), utf8.UTFMax):]) {
			text = text[:len(text)-1]
		}
		text += "…"
	}
	return text
}
