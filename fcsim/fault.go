package fcsim

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// fault is an error whose text is part of the API: its form follows the fault
// messages of Firecracker 1.16, capital letters included, because drivers and
// tests match on them.
type fault struct {
	text  string
	cause error
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

// faultf returns a fault; an operand of %w is kept for errors.Is and errors.As.
func faultf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &fault{text: err.Error(), cause: errors.Unwrap(err)}
}

// osFault words a failed system call as Firecracker does, with the number of the
// error: "No such file or directory (os error 2)". Other errors stay as they are.
func osFault(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	text := errno.Error()
	return &fault{text: fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], int(errno)), cause: errno}
}

// The two answers to a request that came in the wrong state.
func errPostBoot() error {
	return faultf("The requested operation is not supported after starting the microVM.")
}

func errPreBoot() error {
	return faultf("The requested operation is not supported before starting the microVM.")
}
