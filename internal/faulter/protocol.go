package faulter

import (
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/uffd"
)

// The parent writes one setup and then requests to the child's standard
// input, the child one greeting and then responses to its standard output, all
// in the format of encoding/gob. Requests are answered in any order, matched by
// their ID.

// controlFD is the child's end of the socket over which it hands out its
// userfaultfd.
const controlFD = 3

// setup is the part of a normalized [Config] that concerns the child.
type setup struct {
	Regions      []Region
	UserModeOnly bool
	Features     uffd.Features
	Mode         uffd.RegisterMode
}

type operation int

const (
	opSendFD operation = iota + 1
	opCloseFD
	opHandshake
	opHangUp
	opTouch
	opRead
	opWrite
	opRemove
	opSum
)

type request struct {
	ID     uint64
	Op     operation
	Thread int      // opTouch
	Offset uint64   // opRead, opWrite, opRemove, opSum
	Length uint64   // opRead, opRemove, opSum
	Data   []byte   // opWrite
	Pages  []uint64 // opTouch: offsets
	Store  bool     // opTouch
	Path   string   // opHandshake
	Raw    Raw      // opHandshake
}

type response struct {
	ID        uint64
	Data      []byte          // opRead, opSum
	Latencies []time.Duration // opTouch
	Err       *failure
}

type greeting struct {
	Regions      []Region
	UserModeOnly bool
	Err          *failure
}

// failure is an error on its way from the child, with those kinds kept apart
// that a parent reacts to.
type failure struct {
	Text        string
	Refused     bool
	Bus         *BusError
	Unsupported *uffd.UnsupportedError
}

// BusError says that an access ended in SIGBUS, as it does on a poisoned page.
type BusError struct {
	// Address of the access.
	Address uint64
}

// Error implements error.
func (e *BusError) Error() string {
	return fmt.Sprintf("bus error at %#x", e.Address)
}

func newFailure(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: err.Error()}
	var refused *uffd.OpenError
	f.Refused = errors.As(err, &refused)
	errors.As(err, &f.Bus)
	errors.As(err, &f.Unsupported)
	return f
}

// error returns the error as the parent sees it.
func (f *failure) error() error {
	switch {
	case f == nil:
		return nil
	case f.Refused:
		return fmt.Errorf("%w: %s", ErrRefused, f.Text)
	case f.Bus != nil:
		return f.Bus
	case f.Unsupported != nil:
		return f.Unsupported
	default:
		return errors.New(f.Text)
	}
}
