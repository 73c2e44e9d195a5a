package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/internal/hostmemory"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
)

// draftMark begins the name of a directory that is being made; capture.Sweep
// removes what is left of it.
const draftMark = ".new-"

// Create makes an instance. It is Stopped afterwards.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (Instance, error) {
	leave, err := m.enter()
	if err != nil {
		return Instance{}, err
	}
	defer leave()
	id := newID()
	if req.Name == "" {
		req.Name = "i-" + id
	}
	if err := m.checkSpec(req.Spec); err != nil {
		return Instance{}, err
	}
	spec, taps, err := m.withTaps(req.Spec, id, nil, true)
	if err != nil {
		return Instance{}, err
	}
	if err := m.reserveName(req.Name, id); err != nil {
		return Instance{}, err
	}
	e := &entry{id: id, dir: m.data.instance(id)}
	r := &run{m: m, ctx: ctx, op: opCreate, id: id, name: req.Name}
	r.onUndo(func(context.Context) error { m.releaseName(req.Name, id); return nil })
	rec := record{Version: recordVersion, ID: id, Name: req.Name, Created: time.Now().UTC().Round(0), Spec: spec, Taps: taps}
	if err := r.rollBack(r.create(e, rec)); err != nil {
		m.done(r, err)
		return Instance{}, err
	}
	e.warnings = r.warnings
	m.register(e)
	m.look(ctx, e)
	m.done(r, nil)
	return e.describe(), nil
}

func (r *run) create(e *entry, rec record) error {
	draft := filepath.Join(filepath.Dir(e.dir), draftMark+e.id)
	r.onUndo(func(context.Context) error { return os.RemoveAll(draft) })
	if err := r.step(stepFiles, func(ctx context.Context) error { return r.takeOver(ctx, draft, rec.Spec) }); err != nil {
		return err
	}
	if err := r.step(stepRecord, func(context.Context) error {
		return writeRecord(filepath.Join(draft, recordName), rec)
	}); err != nil {
		return err
	}
	return r.step(stepPublish, func(context.Context) error {
		if err := r.publish(draft, e.dir); err != nil {
			return err
		}
		return e.adopt(rec)
	})
}

// publish gives a directory that is complete its name.
func (r *run) publish(draft, dir string) error {
	if err := atomicfile.SyncDir(draft); err != nil {
		return err
	}
	if err := os.Rename(draft, dir); err != nil {
		return err
	}
	r.onUndo(func(context.Context) error { return capture.Remove(dir) })
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// takeOver makes the directory of an instance with files of its own.
func (r *run) takeOver(ctx context.Context, dir string, spec Spec) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, source := range map[string]string{kernelName: spec.Kernel, initrdName: spec.Initrd} {
		if source == "" {
			continue
		}
		shared, err := memimage.Share(ctx, source, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.noteShared(shared)
	}
	if len(spec.Drives) == 0 {
		return nil
	}
	disks := filepath.Join(dir, capture.DisksDir)
	if err := os.Mkdir(disks, 0o700); err != nil {
		return err
	}
	for _, d := range spec.Drives {
		target := filepath.Join(disks, d.ID)
		get, note := memimage.Share, r.noteShared
		if !d.ReadOnly {
			get = func(ctx context.Context, src, dst string) (memimage.Shared, error) {
				return memimage.Copy(ctx, src, dst, 0o600)
			}
			note = r.noteCopied
		}
		shared, err := get(ctx, d.Source, target)
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.ID, err)
		}
		note(shared)
	}
	return atomicfile.SyncDir(disks)
}

// checkSpec reports everything that is wrong with a specification on this host.
func (m *Manager) checkSpec(s Spec) error {
	errs := []error{s.validate()}
	total, err := hostmemory.Total()
	if err != nil {
		return problem.From(err)
	}
	if s.MemoryBytes > total {
		errs = append(errs, fmt.Errorf("memory_bytes is %d, more than the %d that this host has", s.MemoryBytes, total))
	}
	for _, f := range append([]Drive{{ID: kernelName, Source: s.Kernel, ReadOnly: true}, {ID: initrdName, Source: s.Initrd, ReadOnly: true}}, s.Drives...) {
		if !filepath.IsAbs(f.Source) {
			continue // reported above
		}
		info, err := os.Stat(f.Source)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", f.Source)
		}
		if err == nil && !f.ReadOnly {
			err = checkReadable(f.Source)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.ID, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return badRequest("correct the specification", "%w", err)
	}
	return m.checkOwners(s)
}

func checkReadable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// checkOwners refuses drives that are, or may become, another instance's disk: what
// lies in the data directory, and every file that some instance writes to, under
// whatever name.
func (m *Manager) checkOwners(s Spec) error {
	if len(s.Drives) == 0 {
		return nil
	}
	refuse := func(d Drive, owner string) error {
		return problem.New(http.StatusConflict, CodeInUse, "copy the file, or fork that instance", "drive %s: %s is a disk of %s", d.ID, d.Source, owner)
	}
	owned, err := m.writableDisks()
	if err != nil {
		return problem.From(err)
	}
	for _, d := range s.Drives {
		real, err := filepath.EvalSymlinks(d.Source)
		if err != nil {
			return badRequest("name an existing file", "drive %s: %w", d.ID, err)
		}
		if rest, inside := strings.CutPrefix(real, m.data.instances+"/"); inside {
			owner, _, _ := strings.Cut(rest, "/")
			return refuse(d, "instance "+owner)
		}
		file, err := identify(real)
		if err != nil {
			return badRequest("name an existing file", "drive %s: %w", d.ID, err)
		}
		if owner, taken := owned[file]; taken {
			return refuse(d, "instance "+owner)
		}
	}
	return nil
}

// inode identifies a file under whatever name.
type inode struct{ device, number uint64 }

func identify(path string) (inode, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return inode{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

// writableDisks returns the owners of all disks that VMMs may write to.
func (m *Manager) writableDisks() (map[inode]string, error) {
	owned := make(map[inode]string)
	for _, i := range m.List() {
		for _, d := range i.Spec.Drives {
			if d.ReadOnly {
				continue
			}
			file, err := identify(filepath.Join(i.Dir, capture.DisksDir, d.ID))
			if errors.Is(err, fs.ErrNotExist) {
				continue // being placed or deleted
			}
			if err != nil {
				return nil, err
			}
			owned[file] = i.Name
		}
	}
	return owned, nil
}
