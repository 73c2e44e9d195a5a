package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
)

// recover makes the Manager know what is in the data directory, and brings what an
// earlier one has left to the state before its operation or the state after.
func (m *Manager) recover(ctx context.Context) error {
	vmms, err := findVMMs(m.data.instances)
	if err != nil {
		return problem.From(err)
	}
	// VMMs in directories that are no instance's: their instance was never
	// published, or was being removed.
	for name, refs := range vmms {
		if idPattern.MatchString(name) && exists(m.data.instance(name)) {
			continue
		}
		for _, ref := range refs {
			m.cfg.Logger.Warn("ending a VMM without an instance", "pid", ref.PID, "dir", ref.Dir)
			if err := m.kill(ctx, ref); err != nil {
				return problem.From(fmt.Errorf("end a VMM without an instance: %w", err))
			}
		}
	}
	for _, dir := range []string{m.data.instances, m.data.snapshots} {
		removed, err := capture.Sweep(dir)
		if err != nil {
			return problem.From(err)
		}
		if len(removed) > 0 {
			m.cfg.Logger.Info("removed what was left over", "dir", dir, "names", removed)
		}
	}
	if err := m.loadSnapshots(); err != nil {
		return problem.From(err)
	}
	if err := m.loadInstances(ctx, vmms); err != nil {
		return err
	}
	if err := m.sweepTaps(); err != nil {
		// It keeps nobody from working, and the next start tries again.
		m.cfg.Logger.Warn("taps without an instance stay", "error", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (m *Manager) loadSnapshots() error {
	entries, err := os.ReadDir(m.data.snapshots)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !idPattern.MatchString(entry.Name()) {
			continue
		}
		s := loadSnapshot(m.data.snapshot(entry.Name()))
		if other, taken := m.snapNames[s.rec.Name]; taken {
			s.broken = fmt.Sprintf("snapshot %s has its name %s as well", other, s.rec.Name)
			s.rec.Name = s.rec.ID
		}
		m.snapshots[s.rec.ID] = s
		m.snapNames[s.rec.Name] = s.rec.ID
		if s.broken != "" {
			m.cfg.Logger.Error("a snapshot cannot be used", "snapshot", s.rec.ID, "reason", s.broken)
			continue
		}
		if _, err := memimage.Prune(s.open().ManifestPath()); err != nil {
			m.cfg.Logger.Warn("a snapshot was not cleared of superseded layers", "snapshot", s.rec.ID, "error", err)
		}
	}
	return nil
}

func (m *Manager) loadInstances(ctx context.Context, vmms map[string][]hypervisor.ProcessRef) error {
	entries, err := os.ReadDir(m.data.instances)
	if err != nil {
		return problem.From(err)
	}
	for _, found := range entries {
		if id := found.Name(); idPattern.MatchString(id) {
			m.loadInstance(ctx, id, vmms[id])
		}
	}
	return nil
}

func (m *Manager) loadInstance(ctx context.Context, id string, vmms []hypervisor.ProcessRef) {
	e := &entry{id: id, dir: m.data.instance(id)}
	// Alone from the beginning: the end of its VMM may be noticed at any time.
	e.gate.alone = true
	defer e.gate.unlock()
	e.load()
	m.entries[id] = e
	if other, taken := m.names[e.rec.Name]; taken {
		e.broken = fmt.Sprintf("instance %s has its name %s as well", other, e.rec.Name)
		e.rec.Name = id
	}
	m.names[e.rec.Name] = id
	m.revive(ctx, e, vmms)
	if !e.isGone() {
		m.look(ctx, e)
	}
}

// revive takes up the VMM of an instance and ends those that its record does not
// know. Then it settles what was interrupted. What cannot be done yet makes the
// instance unknown, and is tried again by the watcher.
func (m *Manager) revive(ctx context.Context, e *entry, vmms []hypervisor.ProcessRef) {
	if e.brokenReason() != "" {
		return // whose the processes are is not known
	}
	rec := e.record()
	for _, ref := range vmms {
		if v := rec.VMM; v != nil && v.PID == ref.PID && v.StartTime == ref.StartTime {
			if err := m.attach(ctx, e, ref); err != nil {
				m.cfg.Logger.Error("a VMM cannot be taken up", "instance", rec.Name, "pid", ref.PID, "error", err)
			}
			continue
		}
		m.cfg.Logger.Warn("ending a VMM that no record names", "instance", rec.Name, "pid", ref.PID)
		if err := m.kill(ctx, ref); err != nil {
			m.cfg.Logger.Error("a VMM that no record names cannot be ended", "instance", rec.Name, "pid", ref.PID, "error", err)
		}
	}
	if err := m.settle(ctx, e); err != nil {
		m.cfg.Logger.Error("what was interrupted cannot be settled yet", "instance", rec.Name, "error", err)
	}
	if e.isGone() {
		return
	}
	rec = e.record()
	_, err := capture.Sweep(e.dir)
	_, errCaptures := capture.Sweep(filepath.Join(e.dir, capture.CapturesDir))
	err = errors.Join(err, errCaptures)
	if rec.Pending == nil {
		err = errors.Join(err, e.removeCaptures(rec.Capture), e.prune(), dropDisksBefore(e.dir))
	}
	if err != nil {
		m.cfg.Logger.Warn("left-over captures or disks stay", "instance", rec.Name, "error", err)
	}
}

// attach takes up a VMM that an earlier Manager started.
func (m *Manager) attach(ctx context.Context, e *entry, ref hypervisor.ProcessRef) error {
	vmm, err := m.cfg.Hypervisor.Attach(ctx, ref)
	if err != nil {
		return err
	}
	rec := e.record()
	lineage := capture.Booted(true)
	// While a capture was under way, nobody knows what the VMM regards as dirty.
	if rec.VMM.Based && rec.Pending == nil {
		if c, err := capture.Open(e.captureDir(rec.Capture)); err == nil {
			lineage = capture.Restored(c, true)
		}
	}
	e.setVMM(vmm, lineage)
	m.follow(e, vmm)
	return nil
}

// settle brings an interrupted operation to the state before it or the state after,
// as its phase says, and notes a VMM that has ended by itself. The gate is held
// alone, or nobody else has the entry yet. It can be repeated.
func (m *Manager) settle(ctx context.Context, e *entry) error {
	rec := e.record()
	if e.brokenReason() != "" {
		return nil
	}
	if rec.Pending == nil {
		return m.bury(ctx, e)
	}
	m.cfg.Logger.Info("settling an interrupted operation", "instance", rec.Name, "operation", rec.Pending.Operation, "phase", rec.Pending.Phase)
	switch rec.Pending.Phase {
	case phaseUp:
		return m.undoUp(ctx, e)
	case phaseBirth:
		if err := m.endVMM(ctx, e, rec.Pending.Session); err != nil {
			return err
		}
		return m.remove(e)
	case phaseCapture:
		return m.undoCapture(ctx, e)
	case phasePark:
		if err := m.endVMM(ctx, e, sessionOf(rec)); err != nil {
			return err
		}
		return m.settleParked(e)
	case phaseStop:
		if err := m.endVMM(ctx, e, sessionOf(rec)); err != nil {
			return err
		}
		return errors.Join(e.removeCaptures(""), m.settleStopped(e))
	default: // phaseDelete; validate admits no other
		if err := m.endVMM(ctx, e, sessionOf(rec)); err != nil {
			return err
		}
		return m.remove(e)
	}
}

func sessionOf(rec record) string {
	if rec.VMM == nil {
		return ""
	}
	return rec.VMM.Session
}

// endVMM ends the VMM of an instance, and its session as far as there is a pager to
// ask: it notices by itself that the VMM is gone.
func (m *Manager) endVMM(ctx context.Context, e *entry, session string) error {
	if err := m.killAll(ctx, e); err != nil {
		return err
	}
	if _, err := m.closeSession(ctx, session); err != nil {
		m.cfg.Logger.Warn("a session is left to the pager", "instance", e.id, "session", session, "error", err)
	}
	return nil
}

// undoUp undoes a start or restore.
func (m *Manager) undoUp(ctx context.Context, e *entry) error {
	rec := e.record()
	if err := m.endVMM(ctx, e, rec.Pending.Session); err != nil {
		return err
	}
	if err := putDisksBack(e.dir); err != nil {
		return err
	}
	if err := e.prune(); err != nil {
		return err
	}
	rec.Pending = nil
	return errors.Join(e.removeCaptures(rec.Capture), e.write(rec))
}

// undoCapture undoes a capture: the guest goes on if it ran.
func (m *Manager) undoCapture(ctx context.Context, e *entry) error {
	rec := e.record()
	vmm := e.process()
	if vmm == nil {
		rec.Pending = nil
		if err := e.write(rec); err != nil {
			return err
		}
		return m.bury(ctx, e)
	}
	ctx, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	// A VMM that still writes the snapshot answers when it has finished.
	state, err := vmm.State(ctx)
	if err == nil && state == hypervisor.Paused && rec.Pending.Resume {
		err = vmm.Resume(ctx)
	}
	if err != nil {
		return err
	}
	v := *rec.VMM
	v.Based = false
	rec.VMM, rec.Pending = &v, nil
	return errors.Join(e.removeCaptures(rec.Capture), e.write(rec))
}

// bury notes that a VMM has ended without having been asked to. A guest that shut
// itself down leaves its instance stopped, everything else failed.
func (m *Manager) bury(ctx context.Context, e *entry) error {
	rec := e.record()
	if rec.VMM == nil {
		return nil
	}
	vmm := e.process()
	failure := "the VMM ended while nobody was watching"
	switch {
	case vmm == nil:
		ref := hypervisor.ProcessRef{Dir: e.dir, PID: rec.VMM.PID, StartTime: rec.VMM.StartTime}
		if err := m.attach(ctx, e, ref); !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	case !ended(vmm):
		return nil
	default:
		exit := vmm.ExitState()
		failure = "the VMM ended: " + exit.String()
		if exit.Known && exit.Signal == 0 && exit.Code == 0 {
			failure = ""
		}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if s, err := m.closeSession(ctx, rec.VMM.Session); err == nil && s.Reason != "" && failure != "" {
		failure += "; its session: " + s.Reason
	}
	rec.VMM, rec.Failure = nil, failure
	if failure == "" {
		rec.Capture = ""
	}
	if err := errors.Join(e.killVMM(ctx), clearSockets(e.dir), e.write(rec)); err != nil {
		return err
	}
	e.setVMM(nil, nil)
	return e.removeCaptures(rec.Capture)
}

func ended(vmm hypervisor.VMM) bool {
	select {
	case <-vmm.Exited():
		return true
	default:
		return false
	}
}
