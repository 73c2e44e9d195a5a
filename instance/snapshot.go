package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
)

// snapshotEntry is one snapshot. It does not change but for its end, and for a
// flattening of its image; who holds gate alone may do either.
type snapshotEntry struct {
	dir      string
	gate     gate
	rec      snapshotRecord
	capture  capture.Record
	broken   string // why it cannot be used, or empty; rec has only id and name then
	warnings []string
	gone     bool // deleted; read it with the gate held
}

func (s *snapshotEntry) open() capture.Capture {
	return capture.Capture{Dir: s.dir, Record: s.capture}
}

func (s *snapshotEntry) describe() Snapshot {
	out := Snapshot{
		ID: s.rec.ID, Name: s.rec.Name, Created: s.rec.Created, Dir: s.dir, Instance: s.rec.Instance,
		InstanceName: s.rec.InstanceName, Spec: s.rec.Spec, Capture: s.capture, Broken: s.broken, Warnings: s.warnings,
	}
	if image, err := memimage.ReadManifest(s.open().ManifestPath()); err == nil {
		out.Layers = len(image.Layers)
	}
	return out
}

// loadSnapshot reads a snapshot's records. One that cannot be used is noted as broken
// and is no error: it can be deleted, or repaired for the next start.
func loadSnapshot(dir string) *snapshotEntry {
	rec, err := readRecord(filepath.Join(dir, snapshotRecordName), decodeSnapshotRecord)
	if err == nil && rec.ID != filepath.Base(dir) {
		err = fmt.Errorf("%s holds the record of snapshot %s", dir, rec.ID)
	}
	if err != nil {
		rec = snapshotRecord{ID: filepath.Base(dir), Name: filepath.Base(dir)}
	}
	s := &snapshotEntry{dir: dir, rec: rec}
	if err == nil {
		var c capture.Capture
		c, err = capture.Open(dir)
		s.capture = c.Record
	}
	if err != nil {
		s.broken = err.Error()
	}
	return s
}

// Snapshots describes all snapshots, by name.
func (m *Manager) Snapshots() []Snapshot {
	m.mu.Lock()
	entries := make([]*snapshotEntry, 0, len(m.snapshots))
	for _, s := range m.snapshots {
		entries = append(entries, s)
	}
	m.mu.Unlock()
	list := make([]Snapshot, len(entries))
	for i, s := range entries {
		list[i] = s.describe()
	}
	slices.SortFunc(list, func(a, b Snapshot) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// GetSnapshot describes one snapshot.
func (m *Manager) GetSnapshot(ref string) (Snapshot, error) {
	s, err := m.findSnapshot(ref)
	if err != nil {
		return Snapshot{}, err
	}
	return s.describe(), nil
}

func (m *Manager) findSnapshot(ref string) (*snapshotEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return lookup("snapshot", ref, m.snapNames, m.snapshots)
}

// usableSnapshot is findSnapshot for who wants more than to look at it or delete it.
func (m *Manager) usableSnapshot(ref string) (*snapshotEntry, error) {
	s, err := m.findSnapshot(ref)
	if err == nil && s.broken != "" {
		err = problem.New(http.StatusConflict, CodeBroken, "delete it, or repair it and restart the daemon", "the snapshot %s cannot be used: %s", s.rec.Name, s.broken)
	}
	return s, err
}

// CreateSnapshot makes a snapshot of an instance that is running, paused or in
// standby; the instance goes on as it was.
func (m *Manager) CreateSnapshot(ctx context.Context, ref string, req SnapshotRequest) (Snapshot, error) {
	id := newID()
	if req.Name == "" {
		req.Name = "s-" + id
	}
	m.mu.Lock()
	err := reserve("snapshot", req.Name, id, m.snapNames)
	m.mu.Unlock()
	if err != nil {
		return Snapshot{}, err
	}
	s := &snapshotEntry{dir: m.data.snapshot(id)}
	_, err = m.change(ctx, ref, OpSnapshot, "", func(r *run, e *entry) error {
		c, err := r.source(e)
		if err != nil {
			return err
		}
		rec := e.record()
		s.rec = snapshotRecord{
			Version: recordVersion, ID: id, Name: req.Name, Created: time.Now().UTC().Round(0),
			Instance: rec.ID, InstanceName: rec.Name, Spec: rec.Spec,
		}
		s.capture = c.Record
		err = r.makeSnapshot(s, c, e.dir)
		s.warnings = r.warnings
		return err
	})
	m.mu.Lock()
	if err != nil {
		delete(m.snapNames, req.Name)
		m.mu.Unlock()
		return Snapshot{}, err
	}
	m.snapshots[id] = s
	m.mu.Unlock()
	m.events.publish(Event{Kind: EventSnapshotCreated, Snapshot: id, Instance: s.rec.Instance, Name: s.rec.InstanceName})
	return s.describe(), nil
}

// source returns the capture that an instance is now: the one it stands by with, or
// a new one. The gate is held alone.
func (r *run) source(e *entry) (capture.Capture, error) {
	if e.currentState() != Standby {
		return r.captureLive(e)
	}
	c, err := capture.Open(e.captureDir(e.record().Capture))
	if err != nil {
		return capture.Capture{}, stepFailed(r.op, r.name, stepCapture, err)
	}
	return c, nil
}

// makeSnapshot gives a capture a further owner, which also has the kernel for forks
// that boot.
func (r *run) makeSnapshot(s *snapshotEntry, c capture.Capture, from string) error {
	draft := filepath.Join(filepath.Dir(s.dir), draftMark+s.rec.ID)
	if err := r.step(stepLink, func(ctx context.Context) error {
		r.onUndo(func(context.Context) error { return os.RemoveAll(draft) })
		linked, err := capture.Link(ctx, c, draft)
		if err != nil {
			return err
		}
		r.noteSharing(linked.Sharing)
		return r.shareBoot(ctx, from, draft)
	}); err != nil {
		return err
	}
	if err := r.step(stepSnapshot, func(context.Context) error {
		return writeRecord(filepath.Join(draft, snapshotRecordName), s.rec)
	}); err != nil {
		return err
	}
	return r.step(stepPublish, func(context.Context) error { return r.publish(draft, s.dir) })
}

// shareBoot gives a directory names of the kernel and the initial RAM disk that
// another has.
func (r *run) shareBoot(ctx context.Context, from, to string) error {
	for _, name := range []string{kernelName, initrdName} {
		shared, err := memimage.Share(ctx, filepath.Join(from, name), filepath.Join(to, name))
		if name == initrdName && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.noteShared(shared)
	}
	return nil
}

// DeleteSnapshot removes a snapshot. Its forks do not notice.
func (m *Manager) DeleteSnapshot(ctx context.Context, ref string) error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	s, err := m.findSnapshot(ref)
	if err != nil {
		return err
	}
	r := &run{m: m, ctx: ctx, op: opDeleteSnapshot, id: s.rec.Instance, name: s.rec.Name}
	if err := s.gate.lock(ctx); err != nil {
		return stepFailed(r.op, r.name, "wait for the operation before", err)
	}
	defer s.gate.unlock()
	if s.gone {
		return notFound("snapshot", ref)
	}
	if err := r.finish(stepRemove, func(context.Context) error {
		err := capture.Remove(s.dir)
		if _, gone := os.Lstat(s.dir); !errors.Is(gone, fs.ErrNotExist) {
			return errors.Join(err, gone)
		}
		return nil
	}); err != nil {
		return err
	}
	s.gone = true
	m.mu.Lock()
	delete(m.snapshots, s.rec.ID)
	delete(m.snapNames, s.rec.Name)
	m.mu.Unlock()
	m.events.publish(Event{Kind: EventSnapshotDeleted, Snapshot: s.rec.ID})
	return nil
}

// check refuses a snapshot that was deleted while somebody waited for its gate, which
// is held now.
func (s *snapshotEntry) check(ref string) error {
	if s.gone {
		return problem.New(http.StatusNotFound, CodeNotFound, "list the snapshots", "the snapshot %.80q was deleted meanwhile", ref)
	}
	return nil
}
