package instance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"

	"github.com/faultline-vm/faultline/internal/problem"
)

// Codes of the problems that a Manager returns. Every error of its operations is a
// *problem.Problem with one of them.
const (
	CodeBadRequest   = "bad_request"         // 400
	CodeNotFound     = "not_found"           // 404
	CodeAmbiguous    = "ambiguous"           // 409: several ids begin like that
	CodeNameTaken    = "name_taken"          // 409
	CodeWrongState   = "wrong_state"         // 409: the state does not allow it
	CodeInUse        = "in_use"              // 409: a writable disk belongs to another instance
	CodeBroken       = "broken"              // 409: the snapshot's files cannot be used
	CodeIncompatible = "incompatible"        // 409: the capture cannot be restored here
	CodeNoBackend    = "backend_unavailable" // 409: the memory backend asked for is impossible
	CodeNoSession    = "no_session"          // 409: the guest needs no pager
	CodeNoSpace      = "no_space"            // 507
	CodeCanceled     = "canceled"            // 499: the caller went away, or its time was up
	CodeStepFailed   = "step_failed"         // 500: the detail names the step
	CodeClosed       = "closed"              // 503: the Manager is closed
	CodeLocked       = "data_dir_locked"     // 409: another daemon has the data directory
	CodeNewerFormat  = "data_dir_newer"      // 409: written by a later version
)

// statusCanceled is what HTTP servers log for a client that went away.
const statusCanceled = 499

func badRequest(remedy, detail string, args ...any) error {
	return problem.New(http.StatusBadRequest, CodeBadRequest, remedy, detail, args...)
}

func notFound(kind, ref string) error {
	return problem.New(http.StatusNotFound, CodeNotFound, "list them to see names and ids", "no %s has the name, the id or the beginning of an id %.80q", kind, ref)
}

func wrongState(name string, s State, reason string, op Operation) error {
	var words []string
	for _, o := range Allowed(s) {
		words = append(words, string(o))
	}
	return problem.New(http.StatusConflict, CodeWrongState, "allowed now: "+strings.Join(words, ", "),
		"%s is %s%s, which does not allow %s", name, s, because(reason), op)
}

// because puts a reason, if there is one, behind what it is the reason of.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// stepFailed says which step of an operation on name failed. A problem keeps its
// code.
func stepFailed(op Operation, name, step string, err error) error {
	detail := fmt.Errorf("%s %s: %s: %w", op, name, step, err)
	var p *problem.Problem
	switch {
	case errors.As(err, &p):
		return problem.New(p.Status, p.Code, p.Remedy, "%s %s: %s: %w", op, name, step, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problem.New(statusCanceled, CodeCanceled, "everything was undone; ask again", "%w", detail)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem.New(http.StatusInsufficientStorage, CodeNoSpace, "everything was undone; make room and ask again", "%w", detail)
	default:
		return problem.New(http.StatusInternalServerError, CodeStepFailed, "everything was undone", "%w", detail)
	}
}
