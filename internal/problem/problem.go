// Package problem is the error that a person or a program outside gets to see:
// a stable code, what went wrong, and what to do about it. On the wire it is
// application/problem+json (RFC 9457).
//
// The package owns no resources. Errors that stay inside the program need not be
// problems; the edge that answers a request turns them into one with [From].
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Problem is an error with a stable code and a remedy.
type Problem struct {
	// Code is stable, lower case with underscores, and safe to switch on.
	Code string `json:"code"`
	// Status is the HTTP status that goes with Code.
	Status int `json:"status"`
	// Detail says what went wrong and names the thing.
	Detail string `json:"detail"`
	// Remedy says what to do. Empty where nothing can be done from outside.
	Remedy string `json:"remedy,omitempty"`

	err error
}

// New returns a problem. Detail is a format for args; a %w among them is kept
// for errors.Is and errors.As.
func New(status int, code, remedy, detail string, args ...any) *Problem {
	err := fmt.Errorf(detail, args...)
	return &Problem{Code: code, Status: status, Detail: err.Error(), Remedy: remedy, err: errors.Unwrap(err)}
}

// Error returns the detail and, behind a semicolon, the remedy.
func (p *Problem) Error() string {
	if p.Remedy == "" {
		return p.Detail
	}
	return p.Detail + "; " + p.Remedy
}

// Unwrap returns the cause that New was given with %w, if any.
func (p *Problem) Unwrap() error { return p.err }

// Is reports whether target is a problem of the same code.
func (p *Problem) Is(target error) bool {
	other, ok := target.(*Problem)
	return ok && other.Code == p.Code
}

// From returns the problem in err's tree, or one of code "internal" around err.
func From(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Code: "internal", Status: http.StatusInternalServerError, Detail: err.Error(), err: err}
}

// Write answers a request with err as problem+json.
func Write(w http.ResponseWriter, err error) {
	p := From(err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	// The peer may be gone; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(p)
}
