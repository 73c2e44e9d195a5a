package capture

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// Request says what to capture and how. VMM, Hypervisor and Lineage are required.
type Request struct {
	// VMM is the microVM, running or paused. Its working directory is the
	// instance's.
	VMM hypervisor.VMM
	// Hypervisor describes the program that runs it.
	Hypervisor hypervisor.Description
	// Lineage is that of this very VMM.
	Lineage *Lineage
	// ID names the capture; empty draws one. A name that is taken is fs.ErrExist.
	ID string
	// Stop ends the VMM when the capture is published. Otherwise the guest goes on
	// as soon as the VMM has written its files, if it ran before.
	Stop bool
	// Disks are all disks of the guest, in disks/ of the instance's directory.
	Disks []Disk
	// Stages is where the VMM's files go first if the guest runs on. Nil means
	// straight to disk.
	Stages *stage.Area
	// MemoryBytes is the guest's memory. Only the staging of a full capture needs
	// it; 0 means that such a one is not staged.
	MemoryBytes uint64
}

// Result describes a capture that has been taken.
type Result struct {
	Capture Capture
	// Why says why the capture is full; empty for a diff.
	Why string
	// Pause is how long the guest stood still: from the request to pause until the
	// guest ran again or, where it was not to, until the VMM's files were complete.
	// It is 0 for a guest that was paused before.
	Pause time.Duration
	// Snapshot is the part of it that the VMM took to write its files.
	Snapshot time.Duration
	// Staged tells that the files were written to memory first, and Unstaged why
	// they were not although an area was given.
	Staged   bool
	Unstaged error
	// Pages counts the pages of the new layer.
	Pages memimage.Counts
	// Sharing says how the base's layers and the disks were shared and copied.
	Sharing Sharing
}

// Take captures a microVM. In this order, it
//
//  1. publishes a capture that the lineage holds; a failure of that is its own;
//  2. makes captures/.new-<id> and links the layers of the base there, so that
//     nothing about the base can fail later;
//  3. pauses the guest, has the VMM write into new files (staged in memory if the
//     guest runs on and there is room), and copies the writable disks,
//     which have to be of the same moment;
//  4. resumes the guest, unless the VMM is to stop;
//  5. brings what was staged or copied to disk, seals the memory into a layer, writes the
//     record and publishes the directory: see the states in the package's comment;
//  6. ends the VMM if it is to stop. It is last because until the capture is
//     published the guest's only state is the one that the VMM has.
//
// When Take fails, captures that were there before are as they were, the guest runs
// again if it ran before, also when ctx has ended, and nothing is left on disk,
// with one exception: where step 5 fails for a reason that may pass (no space, no
// memory, no descriptors, ctx) the capture is held, see [Lineage] and [ErrHeld].
// Where only step 6 fails, the capture is published, and the result is valid next
// to the error.
func Take(ctx context.Context, r Request) (Result, error) {
	if err := r.validate(); err != nil {
		return Result{}, fmt.Errorf("capture: %w", err)
	}
	l := r.Lineage
	if !l.slot.TryLock() {
		return Result{}, ErrBusy
	}
	defer l.slot.Unlock()
	if l.held != nil {
		if _, err := l.settle(ctx, l.held); err != nil {
			return Result{}, fmt.Errorf("before the next capture: %w", err)
		}
	}
	if r.ID == "" {
		r.ID = strings.ToLower(rand.Text())
	}
	t := &taking{r: r, p: &pending{}}
	if err := t.prepare(ctx); err != nil {
		return Result{}, fmt.Errorf("capture %s: %w", r.ID, errors.Join(err, t.p.discard()))
	}
	if err := t.shoot(ctx); err != nil {
		if t.asked {
			l.lose(fmt.Sprintf("the capture before failed: %v", err))
		}
		return Result{}, fmt.Errorf("capture %s: %w", r.ID, errors.Join(err, t.p.discard()))
	}
	result, err := l.settle(ctx, t.p)
	if err != nil {
		return Result{}, errors.Join(err, t.resume(ctx))
	}
	if r.Stop {
		if err := t.stop(ctx); err != nil {
			return result, fmt.Errorf("capture %s is published: %w", r.ID, err)
		}
	}
	return result, nil
}

func (r *Request) validate() error {
	if r.VMM == nil || r.Lineage == nil {
		return errors.New("a request needs a VMM and its lineage")
	}
	if r.ID != "" && !validName(r.ID) {
		return fmt.Errorf("id %.80q: use 1 to 64 letters, digits, dots, dashes and underscores, the first one not a dot", r.ID)
	}
	return checkDisks(r.Disks)
}

// taking is one Take under way, until the guest runs again.
type taking struct {
	r Request
	p *pending
	// memory and state are the paths that the VMM writes to.
	memory, state string
	// asked tells that the VMM was asked for a snapshot: what it regards as dirty
	// is not known until it has answered.
	asked bool
	// paused tells that the guest ran before and may stand still now.
	paused bool
}

// prepare does all that can be done while the guest runs.
func (t *taking) prepare(ctx context.Context) error {
	if err := t.describe(); err != nil {
		return err
	}
	instance := t.r.VMM.Ref().Dir
	captures := filepath.Join(instance, CapturesDir)
	switch err := os.Mkdir(captures, 0o700); {
	case err == nil:
		if err := atomicfile.SyncDir(instance); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	var err error
	if t.p.draft, err = makeDraft(filepath.Join(captures, t.r.ID)); err != nil {
		return err
	}
	if err := t.linkBase(ctx); err != nil {
		return err
	}
	if err := t.linkDisks(ctx); err != nil {
		return err
	}
	return t.choosePlace(ctx)
}

// describe fills in what is known of the record.
func (t *taking) describe() error {
	kernel, err := hostKernel()
	if err != nil {
		return err
	}
	cpu, err := cpuModel()
	if err != nil {
		return err
	}
	hv := t.r.Hypervisor
	t.p.record = Record{
		Version: recordVersion, ID: t.r.ID,
		Hypervisor: Hypervisor{Name: hv.Name, Version: hv.Version, SnapshotVersion: hv.SnapshotVersion},
		CPUModel:   cpu, HostKernel: kernel, Disks: t.r.Disks,
	}
	return nil
}

// linkBase chooses the kind, and links the layers of the base for a diff. A base
// that is gone, or as deep as an image can be, is a reason for a full capture.
func (t *taking) linkBase(ctx context.Context) error {
	kind, why := t.r.Lineage.choose()
	if kind == memimage.Diff {
		base := *t.r.Lineage.base
		image, err := memimage.ShareLayers(ctx, base.ManifestPath(), t.p.draft.dir)
		switch {
		case errors.Is(err, memimage.ErrMissing):
			kind, why = memimage.Full, fmt.Sprintf("its base %s is gone", base.Record.ID)
		case err != nil:
			return err
		case len(image.Manifest.Layers) >= memimage.MaxLayers:
			kind, why = memimage.Full, fmt.Sprintf("its base %s has %d layers, the most there can be", base.Record.ID, memimage.MaxLayers)
			if err := os.RemoveAll(filepath.Join(t.p.draft.dir, memimage.LayersDir)); err != nil {
				return err
			}
		default:
			t.p.base, t.p.record.Base = image.Manifest, base.Record.ID
			t.p.result.Sharing.AddImage(image)
		}
	}
	t.p.record.Kind, t.p.result.Why = kind, why
	return nil
}

// linkDisks makes the capture's directory of disks, with those that nobody writes.
func (t *taking) linkDisks(ctx context.Context) error {
	if len(t.r.Disks) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(t.p.draft.dir, DisksDir), 0o700); err != nil {
		return err
	}
	for _, d := range t.r.Disks {
		if !d.ReadOnly {
			continue
		}
		shared, err := memimage.Share(ctx, t.disk(d), t.p.disk(d))
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		t.p.result.Sharing.AddFile(shared)
	}
	return nil
}

// copyDisks copies the writable disks. The guest waits meanwhile, but not for the
// copies to be on disk, see [pending.sealDisks].
func (t *taking) copyDisks(ctx context.Context) error {
	for _, d := range t.r.Disks {
		if d.ReadOnly {
			continue
		}
		shared, err := memimage.CopyUnsynced(ctx, t.disk(d), t.p.disk(d), 0o444)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		t.p.result.Sharing.AddCopy(shared)
	}
	return nil
}

// disk returns the path of a disk of the VMM.
func (t *taking) disk(d Disk) string { return filepath.Join(t.r.VMM.Ref().Dir, DisksDir, d.Name) }

// relative returns a path as the VMM shall be given it: relative where it is below
// its working directory, so that its length does not depend on where that is.
func (t *taking) relative(path string) string {
	rel, err := filepath.Rel(t.r.VMM.Ref().Dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return path
	}
	return rel
}
