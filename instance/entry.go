package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
)

// entry is one instance. Who holds gate alone is the only one to change it; who
// shares gate may use its files and its VMM.
type entry struct {
	id   string
	dir  string
	gate gate

	// mu guards what follows against readers. It is a leaf and never held across I/O.
	mu       sync.Mutex
	rec      record
	stat     fs.FileInfo // of the record's file as it was written or read
	broken   string      // why there is no record; rec has only the id then
	vmm      hypervisor.VMM
	lineage  *capture.Lineage
	newest   *capture.Record // of the capture that the record names
	state    State
	reason   string
	busy     Operation // the operation that holds the gate alone
	passing  State     // Starting or Stopping while busy, or empty
	gone     bool      // deleted
	warnings []string
	// shown and shownReason are what was published last.
	shown       State
	shownReason string
}

func (e *entry) record() record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec
}

func (e *entry) process() hypervisor.VMM {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vmm
}

func (e *entry) brokenReason() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

// setVMM notes the VMM of the instance and what its captures build upon; nil and
// nil for none.
func (e *entry) setVMM(vmm hypervisor.VMM, lineage *capture.Lineage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vmm, e.lineage = vmm, lineage
}

func (e *entry) recordPath() string { return filepath.Join(e.dir, recordName) }

func (e *entry) captureDir(id string) string {
	return filepath.Join(e.dir, capture.CapturesDir, id)
}

// write makes rec the record of the instance, on disk and then in memory.
func (e *entry) write(rec record) error {
	if err := writeRecord(e.recordPath(), rec); err != nil {
		return errors.Join(fmt.Errorf("write the record: %w", err), e.putBack())
	}
	return e.adopt(rec)
}

// putBack makes the record in memory that on disk again, where a write has failed
// after the new one got its name.
func (e *entry) putBack() error {
	if !e.changed() {
		return nil
	}
	rec := e.record()
	if err := writeRecord(e.recordPath(), rec); err != nil {
		return fmt.Errorf("write the record before: %w", err)
	}
	return e.adopt(rec)
}

// adopt notes a record that is on disk.
func (e *entry) adopt(rec record) error {
	stat, err := os.Stat(e.recordPath())
	if err != nil {
		return err
	}
	var newest *capture.Record
	if rec.Capture != "" {
		if e.newest != nil && e.newest.ID == rec.Capture {
			newest = e.newest
		} else if c, err := capture.Open(e.captureDir(rec.Capture)); err == nil {
			newest = &c.Record
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rec, e.stat, e.newest, e.broken = rec, stat, newest, ""
	return nil
}

// load reads the record. A record that cannot be used is noted as broken and is no
// error: the instance is unknown then.
func (e *entry) load() {
	rec, err := readRecord(e.recordPath(), decodeRecord)
	if err == nil && rec.ID != e.id {
		err = fmt.Errorf("it is the record of instance %s", rec.ID)
	}
	if err == nil {
		err = e.adopt(rec)
	}
	if err != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.broken = fmt.Sprintf("its record %s cannot be used: %v", e.recordPath(), err)
		e.rec.ID = e.id
		if e.rec.Name == "" {
			e.rec.Name = e.id
		}
	}
}

// changed tells whether somebody else has written or removed the record's file.
func (e *entry) changed() bool {
	stat, err := os.Stat(e.recordPath())
	e.mu.Lock()
	defer e.mu.Unlock()
	return err != nil || e.stat == nil || !os.SameFile(stat, e.stat) || !stat.ModTime().Equal(e.stat.ModTime()) || stat.Size() != e.stat.Size()
}

func readRecord[T any](path string, decode func([]byte) (T, error)) (T, error) {
	var none T
	info, err := os.Lstat(path)
	if err != nil {
		return none, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecordBytes {
		return none, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxRecordBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	rec, err := decode(data)
	if err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return rec, nil
}

// describe tells what the instance is at this moment.
func (e *entry) describe() Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.rec
	out := Instance{
		ID: r.ID, Name: r.Name, State: e.state, Created: r.Created, Operation: e.busy,
		Dir: e.dir, Spec: r.Spec, Origin: r.Origin, Capture: e.newest, Warnings: e.warnings,
	}
	if e.passing != "" {
		out.State = e.passing
	} else if e.state == Failed || e.state == Unknown {
		out.Reason = e.reason
	}
	if r.VMM != nil {
		out.PID, out.Session, out.Backend = r.VMM.PID, r.VMM.Session, r.VMM.Backend
	}
	return out
}

// removeCaptures removes all captures of the instance but the one to keep.
func (e *entry) removeCaptures(keep string) error {
	dir := filepath.Join(e.dir, capture.CapturesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range entries {
		if !captureID.MatchString(c.Name()) || c.Name() == keep {
			continue
		}
		errs = append(errs, capture.Remove(filepath.Join(dir, c.Name())))
	}
	return errors.Join(errs...)
}

// begin marks the instance as busy with an operation.
func (e *entry) begin(op Operation, passing State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy, e.passing = op, passing
}

// end takes the mark away.
func (e *entry) end(warnings []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy, e.passing, e.warnings = "", "", warnings
}

// killVMM ends the VMM, if there is one, and gives up a capture that it holds.
func (e *entry) killVMM(ctx context.Context) error {
	e.mu.Lock()
	vmm, lineage := e.vmm, e.lineage
	e.mu.Unlock()
	if vmm != nil {
		if err := vmm.Kill(ctx); err != nil {
			return err
		}
	}
	if lineage != nil {
		return lineage.GiveUp()
	}
	return nil
}
