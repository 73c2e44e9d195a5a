package instance

import (
	"context"
	"time"
)

// change runs an operation that changes an instance, alone.
func (m *Manager) change(ctx context.Context, ref string, op Operation, passing State, do func(r *run, e *entry) error) (Instance, error) {
	leave, err := m.enter()
	if err != nil {
		return Instance{}, err
	}
	defer leave()
	e, err := m.find(ref)
	if err != nil {
		return Instance{}, err
	}
	if err := e.gate.lock(ctx); err != nil {
		return Instance{}, stepFailed(op, e.describe().Name, "wait for the operation before", err)
	}
	defer e.gate.unlock()
	return m.changeAlone(ctx, ref, e, op, passing, do)
}

// changeAlone is change for who holds the instance's gate alone.
func (m *Manager) changeAlone(ctx context.Context, ref string, e *entry, op Operation, passing State, do func(r *run, e *entry) error) (Instance, error) {
	if err := m.permit(ctx, ref, e, op); err != nil {
		return Instance{}, err
	}
	r := &run{m: m, ctx: ctx, op: op, id: e.id, name: e.describe().Name}
	e.begin(op, passing)
	m.announce(e)
	err := r.rollBack(do(r, e))
	e.end(r.warnings)
	if !e.isGone() {
		m.look(context.WithoutCancel(ctx), e)
	}
	m.done(r, err)
	return e.describe(), err
}

// done publishes the end of an operation.
func (m *Manager) done(r *run, err error) {
	event := Event{Kind: EventDone, Instance: r.id, Name: r.name, Operation: r.op, Request: RequestOf(r.ctx)}
	if err != nil {
		event.Error = err.Error()
	}
	m.events.publish(event)
	m.upkeep.nudge()
}

// permit looks at the instance and checks that its state allows the operation. The
// gate is held alone.
func (m *Manager) permit(ctx context.Context, ref string, e *entry, op Operation) error {
	if e.isGone() {
		return notFound("instance", ref)
	}
	if e.unsettled() {
		if err := m.settle(ctx, e); err != nil {
			m.cfg.Logger.Debug("an instance cannot be settled yet", "instance", e.id, "error", err)
		}
		if e.isGone() {
			return notFound("instance", ref)
		}
	}
	state, reason := m.look(ctx, e)
	if _, ok := Outcome(state, op); !ok {
		return wrongState(e.describe().Name, state, reason, op)
	}
	return nil
}

func (e *entry) isGone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// announce publishes the state of an instance if it has changed.
func (m *Manager) announce(e *entry) {
	now := e.describe()
	e.mu.Lock()
	changed := e.shown != now.State || e.shownReason != now.Reason
	e.shown, e.shownReason = now.State, now.Reason
	e.mu.Unlock()
	if changed {
		m.events.publish(Event{Kind: EventState, Instance: now.ID, Name: now.Name, State: now.State, Reason: now.Reason})
	}
}

// admit waits until one more VMM may be brought up. The caller gives the place back
// in any case.
func (r *run) admit() (release func(), err error) {
	taken := false
	release = func() {
		if taken {
			taken = false
			<-r.m.admission
		}
	}
	return release, r.step(stepAdmit, func(ctx context.Context) error {
		select {
		case r.m.admission <- struct{}{}:
			taken = true
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// probeTime bounds a question to a VMM or a pager about how it is. With the time
// between two looks it has to stay below the two seconds within which an instance
// is known to be unknown.
const probeTime = time.Second
