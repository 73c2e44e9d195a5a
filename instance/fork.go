package instance

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/problem"
)

// maxForks bounds the forks of one request.
const maxForks = 1000

// Fork makes new instances of an instance. The error is not nil if none came to
// be; otherwise each result tells for itself.
func (m *Manager) Fork(ctx context.Context, req ForkRequest) ([]Forked, error) {
	leave, err := m.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	e, err := m.find(req.Source)
	if err != nil {
		return nil, err
	}
	origin := e.describe()
	b, err := m.newBrood(ctx, req, origin.Spec, origin.Name)
	if err != nil {
		return nil, err
	}
	defer b.release()
	b.origin, b.from = Origin{Instance: e.id}, e.dir
	if err := e.gate.lock(ctx); err != nil {
		return nil, stepFailed(OpFork, origin.Name, "wait for the operation before", err)
	}
	if err := m.prepareSource(ctx, e, b); err != nil {
		e.gate.unlock()
		return nil, err
	}
	e.gate.downgrade()
	return b.hatch(sync.OnceFunc(e.gate.unshare))
}

// prepareSource finds or takes the capture to fork. The source's gate is held alone.
func (m *Manager) prepareSource(ctx context.Context, e *entry, b *brood) error {
	if e.currentState() == Standby && !e.isGone() {
		// The common case changes nothing about the source: it is not busy.
		if state, _ := m.look(ctx, e); state == Standby {
			c, err := capture.Open(e.captureDir(e.record().Capture))
			if err != nil {
				return problem.From(err)
			}
			if err := b.use(c); err != nil || !b.plan.flatten {
				return err
			}
		}
	}
	_, err := m.changeAlone(ctx, b.req.Source, e, OpFork, "", func(r *run, e *entry) error {
		c, err := r.source(e)
		if err != nil {
			return err
		}
		if err := b.use(c); err != nil {
			return err
		}
		return r.flattenSource(b)
	})
	return err
}

// ForkSnapshot makes new instances of a snapshot, like [Manager.Fork].
func (m *Manager) ForkSnapshot(ctx context.Context, ref string, req ForkRequest) ([]Forked, error) {
	leave, err := m.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := m.usableSnapshot(ref)
	if err != nil {
		return nil, err
	}
	b, err := m.newBrood(ctx, req, s.rec.Spec, s.rec.Name)
	if err != nil {
		return nil, err
	}
	defer b.release()
	b.origin, b.from = Origin{Instance: s.rec.Instance, Snapshot: s.rec.ID}, s.dir
	if err := s.gate.share(ctx); err != nil {
		return nil, stepFailed(OpFork, s.rec.Name, "wait for the operation before", err)
	}
	done := sync.OnceFunc(s.gate.unshare)
	err = s.check(ref)
	if err == nil {
		err = b.use(s.open())
	}
	if err == nil && b.plan.flatten {
		done()
		if err := s.gate.lock(ctx); err != nil {
			return nil, stepFailed(OpFork, s.rec.Name, "wait for the operation before", err)
		}
		r := &run{m: m, ctx: ctx, op: OpFork, id: s.rec.Instance, name: s.rec.Name}
		if err = s.check(ref); err == nil {
			err = r.flattenSource(b)
		}
		s.gate.downgrade()
		done = sync.OnceFunc(s.gate.unshare)
	}
	if err != nil {
		done()
		return nil, err
	}
	return b.hatch(done)
}

// flattenSource makes the image of what is forked flat, once for all forks, which
// then share its clean pages.
func (r *run) flattenSource(b *brood) error {
	if !b.plan.flatten {
		return nil
	}
	return r.step(stepFlatten, func(ctx context.Context) error { return flatten(ctx, b.capture) })
}

// brood is the forks of one request.
type brood struct {
	m       *Manager
	ctx     context.Context
	req     ForkRequest
	spec    Spec
	forks   []*unborn
	origin  Origin
	from    string // the directory that has the kernel
	capture capture.Capture
	plan    plan
	// warnings are about the capture.
	warnings []string
}

// unborn is one fork that is going to be.
type unborn struct {
	id, name string
	spec     Spec
	taps     []string // its own, see record.Taps
}

// newBrood checks a request and takes the names. Call release when it is over.
func (m *Manager) newBrood(ctx context.Context, req ForkRequest, spec Spec, source string) (*brood, error) {
	if req.Count == 0 {
		req.Count = max(1, len(req.Names))
	}
	if req.Target == "" {
		req.Target = Running
	}
	switch {
	case req.Count < 1 || req.Count > maxForks:
		return nil, badRequest(fmt.Sprintf("use 1 to %d", maxForks), "%d forks", req.Count)
	case len(req.Names) > 1 && len(req.Names) != req.Count:
		return nil, badRequest("give as many names as forks, or one", "%d names for %d forks", len(req.Names), req.Count)
	case req.Target != Running && req.Target != Standby && req.Target != Stopped:
		return nil, badRequest(fmt.Sprintf("use %s, %s or %s", Running, Standby, Stopped), "a fork cannot be brought to %.80q", string(req.Target))
	case len(req.Taps) > 0 && req.Count > 1:
		return nil, badRequest("configure a template for taps, or fork one by one", "the same taps for %d forks", req.Count)
	case len(req.Identity) > MaxIdentity:
		return nil, badRequest("give less", "%d bytes of identity are more than %d", len(req.Identity), MaxIdentity)
	case len(req.Identity) > 0 && spec.IdentityAddress == 0:
		return nil, badRequest("create the instance with one", "the guest has no identity page")
	}
	b := &brood{m: m, ctx: ctx, req: req, spec: spec}
	for i := range req.Count {
		f := &unborn{id: newID(), name: req.nameOf(i, source)}
		if f.name == "" {
			f.name = source[:min(len(source), 54)] + "-" + f.id[:8]
		}
		err := m.reserveName(f.name, f.id)
		if err == nil {
			b.forks = append(b.forks, f)
			f.spec, f.taps, err = m.withTaps(spec, f.id, req.Taps, false)
		}
		if err != nil {
			b.release()
			return nil, err
		}
	}
	return b, nil
}

// nameOf returns the name of fork i, or "".
func (req ForkRequest) nameOf(i int, source string) string {
	switch {
	case len(req.Names) == 0:
		return ""
	case len(req.Names) == 1 && req.Count > 1:
		return fmt.Sprintf("%s-%d", req.Names[0], i+1)
	default:
		return req.Names[i]
	}
}

// release gives back the names of forks that did not come to be.
func (b *brood) release() {
	for _, f := range b.forks {
		if _, err := b.m.find(f.id); err != nil {
			b.m.releaseName(f.name, f.id)
		}
	}
}

// use makes c what is forked, and decides how.
func (b *brood) use(c capture.Capture) (err error) {
	b.capture, b.origin.Capture = c, c.Record.ID
	if b.req.Target != Running {
		return nil
	}
	if b.warnings, err = compatible(c.Record, b.m.cfg.Hypervisor.Describe(), b.m.host); err != nil {
		return err
	}
	b.plan, err = b.m.plan(b.req.Backend, b.spec, true, c)
	return err
}

// hatch makes all forks. It calls linked when the source is needed no more.
func (b *brood) hatch(linked func()) ([]Forked, error) {
	results := make([]Forked, len(b.forks))
	var working, linking sync.WaitGroup
	linking.Add(len(b.forks))
	for i, f := range b.forks {
		working.Go(func() {
			results[i] = b.bear(f, sync.OnceFunc(linking.Done))
		})
	}
	linking.Wait()
	linked()
	working.Wait()
	var first error
	for _, r := range results {
		if r.Err == nil {
			return results, nil
		}
		if first == nil {
			first = r.Err
		}
	}
	return results, first
}

// bear makes one fork. It calls linked when it needs the source no more.
func (b *brood) bear(f *unborn, linked func()) Forked {
	defer linked()
	e := &entry{id: f.id, dir: b.m.data.instance(f.id)}
	e.rec.Name = f.name
	e.busy, e.passing, e.state = OpFork, Starting, Stopped
	e.gate.alone = true // nobody else has it yet
	defer e.gate.unlock()
	r := &run{m: b.m, ctx: b.ctx, op: OpFork, id: f.id, name: f.name, warnings: append([]string(nil), b.warnings...)}
	err := r.rollBack(r.bear(b, f, e, linked))
	if err == nil {
		e.end(r.warnings)
		b.m.look(context.WithoutCancel(b.ctx), e)
	}
	b.m.done(r, err)
	return Forked{Name: f.name, Instance: e.describe(), Err: err}
}

func (r *run) bear(b *brood, f *unborn, e *entry, linked func()) error {
	release, err := r.admit()
	defer release()
	if err != nil {
		return err
	}
	origin := b.origin
	rec := record{
		Version: recordVersion, ID: f.id, Name: f.name, Created: time.Now().UTC().Round(0), Spec: f.spec, Taps: f.taps, Origin: &origin,
		Identity: b.req.Identity, Announce: r.m.cfg.Reconfigure.wanted(), Capture: b.capture.Record.ID, Parked: b.req.Target == Standby,
	}
	if b.req.Target == Stopped {
		rec.Capture, rec.Announce = "", false
	}
	final, session := rec, newSession(b.plan, f.id)
	if b.req.Target == Running {
		rec.Pending = &interrupted{Phase: phaseBirth, Operation: r.op, Session: session}
	}
	var own capture.Capture
	if err := r.step(stepFork, func(ctx context.Context) error {
		out, err := capture.Fork(ctx, b.capture, capture.ForkOptions{Dir: e.dir, Prepare: func(dir string) error {
			return r.prepareFork(ctx, b, dir, rec)
		}})
		if err != nil {
			return err
		}
		own = out.Capture
		r.onUndo(func(context.Context) error { return r.m.remove(e) })
		r.noteSharing(out.Sharing)
		if err := e.adopt(rec); err != nil {
			return err
		}
		if b.req.Target == Stopped {
			return e.removeCaptures("")
		}
		return nil
	}); err != nil {
		return err
	}
	linked()
	r.m.register(e)
	r.m.announce(e)
	if b.req.Target != Running {
		return nil
	}
	return r.ascend(ascent{e: e, from: own, plan: b.plan, session: session, rec: final, recordStep: stepSettle})
}

// prepareFork puts into the directory of a fork what a capture does not have.
func (r *run) prepareFork(ctx context.Context, b *brood, dir string, rec record) error {
	if err := r.shareBoot(ctx, b.from, dir); err != nil {
		return err
	}
	return writeRecord(filepath.Join(dir, recordName), rec)
}
