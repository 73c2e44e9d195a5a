package instance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// lookInterval is the time between two looks at all instances.
const lookInterval = 400 * time.Millisecond

// lookersAtOnce bounds the instances that are looked at at the same time. One whose
// VMM does not answer takes probeTime.
const lookersAtOnce = 64

// watch looks at all instances again and again until the Manager is closed.
func (m *Manager) watch() {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-m.background.Done():
			return
		case <-tick.C:
			m.lookAtAll()
		}
	}
}

func (m *Manager) lookAtAll() {
	entries := m.allEntries()
	m.askPagers(entries)
	slots := make(chan struct{}, lookersAtOnce)
	var looking sync.WaitGroup
	for _, e := range entries {
		slots <- struct{}{}
		looking.Go(func() {
			defer func() { <-slots }()
			m.lookAfter(e)
		})
	}
	looking.Wait()
}

// allEntries returns all instances there are, in no order.
func (m *Manager) allEntries() []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.entries))
}

// lookAfter looks at one instance, unless an operation has it, and settles what can
// be settled now.
func (m *Manager) lookAfter(e *entry) {
	if !e.gate.tryShare() {
		return
	}
	settle := !e.isGone() && (e.unsettled() || e.brokenReason() != "" || m.sessions.isOver(sessionOf(e.record())))
	if !settle && !e.isGone() {
		m.look(m.background, e)
	}
	e.gate.unshare()
	if settle {
		m.settleLater(e)
	}
}

// unsettled tells that the record does not say yet what has become of the instance.
func (e *entry) unsettled() bool {
	rec, vmm := e.record(), e.process()
	return rec.Pending != nil || rec.VMM != nil && (vmm == nil || ended(vmm))
}

// settleLater settles an instance that was left unsettled, and reads a record again
// that could not be used.
func (m *Manager) settleLater(e *entry) {
	ctx, cancel := context.WithTimeout(m.background, probeTime)
	defer cancel()
	if e.gate.lock(ctx) != nil {
		return
	}
	defer e.gate.unlock()
	if e.isGone() {
		return
	}
	if e.brokenReason() != "" {
		m.reload(e)
	}
	err := m.settle(m.background, e)
	if err == nil && !e.isGone() {
		err = m.forgetSession(e)
	}
	if err != nil {
		m.cfg.Logger.Debug("an instance cannot be settled yet", "instance", e.id, "error", err)
	}
	if !e.isGone() {
		m.look(m.background, e)
	}
}

// reload reads a record that could not be used, which somebody may have repaired.
func (m *Manager) reload(e *entry) {
	before := e.record().Name
	e.load()
	name := e.record().Name
	if e.brokenReason() != "" || name == before {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, taken := m.names[name]; taken && other != e.id {
		e.mu.Lock()
		e.broken = fmt.Sprintf("instance %s has its name %s as well", other, name)
		e.rec.Name = before
		e.mu.Unlock()
		return
	}
	delete(m.names, before)
	m.names[name] = e.id
}

// follow notes the end of a VMM as soon as it happens.
func (m *Manager) follow(e *entry, vmm hypervisor.VMM) {
	m.watching.Go(func() {
		select {
		case <-m.background.Done():
			return
		case <-vmm.Exited():
		}
		if e.gate.lock(m.background) != nil {
			return
		}
		defer e.gate.unlock()
		// The operation that ended it has noted that itself.
		if e.process() != vmm || e.isGone() {
			return
		}
		if err := m.settle(m.background, e); err != nil {
			m.cfg.Logger.Warn("the end of a VMM cannot be recorded yet", "instance", e.id, "error", err)
		}
		if !e.isGone() {
			m.look(m.background, e)
		}
	})
}

// look finds out what an instance is, notes it and tells if it has changed. The gate
// is held, or nobody else has the entry yet.
func (m *Manager) look(ctx context.Context, e *entry) (State, string) {
	state, reason := m.examine(ctx, e)
	e.mu.Lock()
	e.state, e.reason = state, reason
	e.mu.Unlock()
	m.announce(e)
	return state, reason
}

// examine derives the state from the facts.
func (m *Manager) examine(ctx context.Context, e *entry) (State, string) {
	if reason := e.brokenReason(); reason != "" {
		return Unknown, reason
	}
	rec, vmm := e.record(), e.process()
	if e.changed() {
		if now, err := readRecord(e.recordPath(), decodeRecord); err != nil {
			return Unknown, fmt.Sprintf("its record cannot be used any more: %v", err)
		} else if !sameRecord(now, rec) {
			return Unknown, fmt.Sprintf("somebody else has changed its record %s", e.recordPath())
		}
	}
	switch {
	case rec.Pending != nil:
		return Unknown, fmt.Sprintf("%s was interrupted and cannot be settled yet", rec.Pending.Operation)
	case rec.VMM != nil && vmm == nil:
		return Unknown, fmt.Sprintf("the VMM, process %d, cannot be taken up", rec.VMM.PID)
	case rec.VMM != nil && ended(vmm):
		return Failed, "the VMM ended: " + vmm.ExitState().String()
	case rec.VMM != nil:
		return m.examineVMM(ctx, rec, vmm)
	case rec.Parked:
		return examineParked(e.captureDir(rec.Capture))
	case rec.Failure != "":
		return Failed, rec.Failure
	default:
		return Stopped, ""
	}
}

func sameRecord(a, b record) bool {
	x, errX := a.encode()
	y, errY := b.encode()
	return errX == nil && errY == nil && slices.Equal(x, y)
}

// examineVMM asks the VMM, and what was found out last about its session.
func (m *Manager) examineVMM(ctx context.Context, rec record, vmm hypervisor.VMM) (State, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	state, err := vmm.State(ctx)
	if err != nil {
		return Unknown, fmt.Sprintf("the VMM does not answer: %v", err)
	}
	if reason := m.sessions.fault(rec.VMM.Session); reason != "" {
		return Unknown, reason
	}
	switch state {
	case hypervisor.Running:
		return Running, ""
	case hypervisor.Paused:
		return Paused, ""
	default:
		return Unknown, fmt.Sprintf("the VMM is %q: it has no guest", state)
	}
}

// examineParked checks that there is something to restore.
func examineParked(dir string) (State, string) {
	for _, name := range []string{capture.RecordName, capture.StateName, memimage.ManifestName} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return Unknown, fmt.Sprintf("its capture cannot be used: %v", err)
		}
	}
	return Standby, ""
}
