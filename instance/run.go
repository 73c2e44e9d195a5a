package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
)

// undoTime bounds what has to be done after the context of an operation has ended.
const undoTime = 2 * time.Minute

// run is one operation under way. Its steps either all happen, or what was made is
// undone in reverse order: each step tells what to undo as soon as it has made
// something. Behind the last step that can be undone come those that are only ever
// finished, see [run.finish].
type run struct {
	m    *Manager
	ctx  context.Context
	op   Operation
	id   string // of the instance or snapshot
	name string
	undo []func(ctx context.Context) error
	// warnings are for the result.
	warnings []string
}

// step does one step of the operation.
func (r *run) step(name string, do func(ctx context.Context) error) error {
	err := context.Cause(r.ctx)
	if err == nil {
		err = r.attempt(r.ctx, name, do)
	}
	if err != nil {
		return stepFailed(r.op, r.name, name, err)
	}
	return nil
}

func (r *run) attempt(ctx context.Context, name string, do func(ctx context.Context) error) error {
	r.m.events.publish(Event{Kind: EventStep, Instance: r.id, Name: r.name, Operation: r.op, Step: name, Request: RequestOf(r.ctx)})
	at := point(r.op, name)
	if err := r.m.cfg.Failpoints.Hit(at); err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		return err
	}
	return r.m.cfg.Failpoints.Hit(at + behind)
}

// finish does a step behind the point of no return: the operation has succeeded
// already, and its end does not depend on the caller's patience. A step that fails
// is tried once more; what still fails is returned, and left to the next start or
// to the watcher by what the record says.
func (r *run) finish(name string, do func(ctx context.Context) error) error {
	r.undo = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), undoTime)
	defer cancel()
	err := r.attempt(ctx, name, do)
	if err == nil {
		return nil
	}
	if again := do(ctx); again != nil {
		return stepFailed(r.op, r.name, name, errors.Join(err, again))
	}
	r.warn("%s had to be done twice: %v", name, err)
	return nil
}

// tidy is finish for what does not matter to the result: the next start does it too.
func (r *run) tidy(name string, do func(ctx context.Context) error) {
	if err := r.finish(name, do); err != nil {
		r.warn("%v", err)
	}
}

// onUndo tells what to do if the operation fails later.
func (r *run) onUndo(undo func(ctx context.Context) error) { r.undo = append(r.undo, undo) }

func (r *run) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// rollBack undoes what was made, and returns the error with what could not be
// undone. It does nothing without an error.
func (r *run) rollBack(err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), undoTime)
	defer cancel()
	var errs []error
	for i := len(r.undo) - 1; i >= 0; i-- {
		errs = append(errs, r.undo[i](ctx))
	}
	r.undo = nil
	if failed := errors.Join(errs...); failed != nil {
		p := problem.From(err)
		return problem.New(p.Status, p.Code, "what is left over is cleared when it becomes possible", "%w; and undoing it failed: %v", err, failed)
	}
	return err
}
