package instance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/fleet"
	"github.com/faultline-vm/faultline/pager/supervisor"
	"github.com/faultline-vm/faultline/uffd"
)

// doubtTime is how long a session may be what it is for a moment only: being adopted,
// or on its way between two pagers. With the time between two looks it stays below
// the two seconds within which an instance is known to be unknown.
const doubtTime = 800 * time.Millisecond

// opinion is what was found out about one session.
type opinion struct {
	// reason says what is wrong with it, or is empty.
	reason string
	// passing tells that the reason counts only when it stays.
	passing bool
	// over tells that the guest needs no pager any more.
	over bool
}

// sessionView is what was found out last about the sessions of all instances. Of a
// session that nobody has looked for yet it has nothing to say: it is as good as its
// VMM.
type sessionView struct {
	mu       sync.Mutex
	opinions map[string]opinion   // protected by mu
	doubted  map[string]time.Time // since when a session has been in doubt, protected by mu
}

// fault says what is wrong with a session, or returns "".
func (v *sessionView) fault(id string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.opinions[id]
	if o.passing && time.Since(v.doubted[id]) < doubtTime {
		return ""
	}
	return o.reason
}

// isOver reports whether a session is over while its guest runs on.
func (v *sessionView) isOver(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opinions[id].over
}

// over notes that a session is.
func (v *sessionView) over(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.opinions == nil {
		v.opinions = make(map[string]opinion)
	}
	v.opinions[id] = opinion{over: true}
}

// set replaces everything.
func (v *sessionView) set(opinions map[string]opinion) {
	v.mu.Lock()
	defer v.mu.Unlock()
	doubted := make(map[string]time.Time)
	for id, o := range opinions {
		if !o.passing {
			continue
		}
		doubted[id] = time.Now()
		if since, ok := v.doubted[id]; ok {
			doubted[id] = since
		}
	}
	v.opinions, v.doubted = opinions, doubted
}

// last returns what was found out before.
func (v *sessionView) last(id string) (opinion, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, ok := v.opinions[id]
	return o, ok
}

// askPagers finds out how the sessions of all instances are. Where a session is, its
// journal says: it may have been handed over to another version. There its pager is
// asked; one that does not run is started, since guests stand still without it.
func (m *Manager) askPagers(entries []*entry) {
	vmms := make(map[string]int)
	for _, e := range entries {
		if rec := e.record(); sessionOf(rec) != "" {
			vmms[rec.VMM.Session] = rec.VMM.PID
		}
	}
	opinions := make(map[string]opinion, len(vmms))
	if len(vmms) == 0 {
		m.sessions.set(opinions)
		return
	}
	places, err := fleet.Places(m.data.root)
	byVersion := make(map[string][]string)
	for id, pid := range vmms {
		version, ok := places[id]
		if !ok && err == nil {
			version, ok, err = fleet.Place(m.data.root, id)
		}
		switch {
		case ok:
			byVersion[version] = append(byVersion[version], id)
		case err != nil:
			opinions[id] = opinion{reason: err.Error()}
		default:
			opinions[id] = m.withoutPlace(id, pid)
		}
	}
	var mu sync.Mutex // guards opinions
	var asking sync.WaitGroup
	for version, ids := range byVersion {
		asking.Go(func() {
			found := m.askPager(version, ids)
			mu.Lock()
			defer mu.Unlock()
			for id, o := range found {
				opinions[id] = o
			}
		})
	}
	asking.Wait()
	m.sessions.set(opinions)
}

// withoutPlace judges a session that no pager has. That its guest needs none is read
// off the VMM's memory, since pagers forget: a detached session has left nothing.
func (m *Manager) withoutPlace(id string, pid int) opinion {
	if before, ok := m.sessions.last(id); ok && before.reason == nobodyHas(id) {
		return before // no pager has it, so nothing about it can change
	}
	registered, err := uffd.Registered(pid)
	switch {
	case errors.Is(err, uffd.ErrGone):
		return opinion{} // its end is noticed elsewhere
	case err != nil:
		return opinion{reason: fmt.Sprintf("no pager has its session %s, and whether its guest needs it cannot be told: %v", id, err), passing: true}
	case registered:
		return opinion{reason: nobodyHas(id), passing: true}
	}
	return opinion{over: true}
}

func nobodyHas(id string) string {
	return fmt.Sprintf("no pager has its session %s: its guest stands still where it lacks a page", id)
}

// askPager asks the pager of a version for sessions that are its own.
func (m *Manager) askPager(version string, ids []string) map[string]opinion {
	opinions := make(map[string]opinion, len(ids))
	all := func(o opinion) map[string]opinion {
		for _, id := range ids {
			opinions[id] = o
		}
		return opinions
	}
	if !m.pagers.available() {
		return all(opinion{reason: fmt.Sprintf("its session is at the pager %s, and no pager is configured", version)})
	}
	p, err := m.pagers.look(version)
	if errors.Is(err, errPagerStarts) {
		return all(opinion{})
	}
	if err != nil {
		return all(opinion{reason: fmt.Sprintf("the pager %s does not run: %v", version, err)})
	}
	ctx, cancel := context.WithTimeout(m.background, probeTime)
	defer cancel()
	list, err := p.Sessions(ctx)
	if err != nil && isRestarted(p, err) {
		return all(opinion{})
	}
	if err != nil {
		return all(opinion{reason: fmt.Sprintf("the pager %s does not answer: %v", version, err)})
	}
	known := make(map[string]control.Session, len(list))
	for _, s := range list {
		known[s.ID] = s
	}
	for _, id := range ids {
		s, ok := known[id]
		opinions[id] = judge(version, id, s, ok)
	}
	return opinions
}

// isRestarted reports whether somebody takes care of a pager that could not be asked:
// its process is gone, or it is coming up. One that is there and does not answer is
// nobody's care.
func isRestarted(p Pager, err error) bool {
	s, ok := p.(keptRunning)
	if !ok {
		return false
	}
	state := s.Status().State
	return fleet.NotRunning(err) || state == supervisor.Starting || state == supervisor.Waiting
}

// judge judges a session by what the pager says that has its journal.
func judge(version, id string, s control.Session, known bool) opinion {
	switch {
	case !known:
		// Between two pagers the journal goes first.
		return opinion{reason: fmt.Sprintf("the pager %s does not know its session %s", version, id), passing: true}
	case s.State == control.Serving && s.Stalled:
		return opinion{reason: fmt.Sprintf("a page fault of its guest has waited for longer than %v at the pager %s, session %s", control.StallLimit, version, id)}
	case s.State == control.Serving:
		return opinion{}
	case s.State == control.Failed:
		return opinion{reason: fmt.Sprintf("its session %s has failed at the pager %s: %s", id, version, s.Reason)}
	default:
		// Adopting; or over, and the journal is about to go.
		return opinion{reason: fmt.Sprintf("its session %s is %s at the pager %s", id, s.State, version), passing: true}
	}
}

// forgetSession takes a session off the record of an instance whose guest needs none
// any more. The gate is held alone.
func (m *Manager) forgetSession(e *entry) error {
	rec := e.record()
	if rec.Pending != nil || !m.sessions.isOver(sessionOf(rec)) {
		return nil
	}
	vmm := *rec.VMM
	vmm.Session = ""
	rec.VMM = &vmm
	return e.write(rec)
}
