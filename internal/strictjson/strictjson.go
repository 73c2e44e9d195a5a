// Package strictjson reads the bodies of requests: exactly one JSON object, no
// unknown fields, nothing behind it, and no more than a bounded number of bytes.
//
// The package owns nothing and has no state. Its errors are problems with the
// codes bad_request and body_too_large.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/faultline-vm/faultline/internal/problem"
)

// MaxBody is the size in bytes of the largest body that is read.
const MaxBody = 1 << 20

// Decode reads exactly one JSON object of at most MaxBody bytes into v. Unknown
// fields and trailing bytes are errors, since a misspelt option that is silently
// ignored costs more than one that is refused. Remedy says where the fields are
// documented.
func Decode(r io.Reader, v any, remedy string) error {
	body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err != nil {
		return bad("send the whole body", "reading the request body: %w", err)
	}
	if len(body) > MaxBody {
		return problem.New(http.StatusRequestEntityTooLarge, "body_too_large", "send less", "the request body exceeds %d bytes", MaxBody)
	}
	if err := Unmarshal(body, v); err != nil {
		return bad(remedy, "the request body is not as expected: %w", err)
	}
	return nil
}

// Unmarshal is Decode for bytes at hand, with plain errors.
func Unmarshal(data []byte, v any) error {
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) > 0 && text[0] != '{' {
		return errors.New("it is not a JSON object") // the decoder would take null for one
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it goes on behind its JSON object")
	}
	return nil
}

func bad(remedy, detail string, args ...any) error {
	return problem.New(http.StatusBadRequest, "bad_request", remedy, detail, args...)
}
