package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// rawName is the memory file in a draft, before it is sealed.
const rawName = "memory"

// pending is a capture that the VMM has written, or is about to, and that is not
// published. Its directory is a draft; [pending.publish] may be called again after
// it has failed.
type pending struct {
	draft  draft
	record Record
	// base is the image below a diff, whose layers are linked in the draft.
	base memimage.Manifest
	// staged holds the VMM's files where they are in memory.
	staged *stage.Stage
	// sealed is set when the memory has become a layer.
	sealed *memimage.Sealed
	// disksSealed tells that the disks are on disk.
	disksSealed bool
	result      Result
}

// publish makes a capture of what the VMM has written. After an error the VMM's
// files are as they were and the draft is no capture.
func (p *pending) publish(ctx context.Context) (Result, error) {
	if p.sealed == nil {
		sealed, err := p.seal(ctx)
		if err != nil {
			return Result{}, err
		}
		p.sealed = &sealed
	}
	if err := p.sealState(); err != nil {
		return Result{}, err
	}
	if err := p.sealDisks(); err != nil {
		return Result{}, err
	}
	if p.staged != nil {
		if err := p.staged.Discard(); err != nil {
			return Result{}, err
		}
		p.staged = nil
	}
	p.record.MemoryBytes = p.sealed.Manifest.Size
	if err := p.record.Validate(); err != nil {
		return Result{}, fmt.Errorf("its record: %w", err)
	}
	record, err := p.record.Encode()
	if err != nil {
		return Result{}, err
	}
	if err := atomicfile.WriteFile(filepath.Join(p.draft.dir, RecordName), record, 0o444); err != nil {
		return Result{}, err
	}
	if err := p.draft.publish(); err != nil {
		return Result{}, err
	}
	p.result.Capture = Capture{Dir: p.draft.final, Record: p.record}
	p.result.Pages = p.sealed.Pages
	return p.result, nil
}

// seal makes a layer of the memory file, and brings the VM state to disk with it
// where that is in memory, too.
func (p *pending) seal(ctx context.Context) (memimage.Sealed, error) {
	if p.staged == nil {
		return memimage.Seal(ctx, memimage.SealOptions{
			Source: filepath.Join(p.draft.dir, rawName), Dir: p.draft.dir, Kind: p.record.Kind, Base: p.base,
		})
	}
	// Others may stage in the room that was not needed.
	if _, err := p.staged.Settle(); err != nil {
		return memimage.Sealed{}, err
	}
	return p.staged.Seal(ctx, stage.SealOptions{
		Memory: rawName, Files: []string{StateName}, Dir: p.draft.dir, Kind: p.record.Kind, Base: p.base,
	})
}

// sealState makes the VM state as immutable as a layer.
func (p *pending) sealState() error {
	path := filepath.Join(p.draft.dir, StateName)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// disk returns the path of a disk in the draft.
func (p *pending) disk(d Disk) string { return filepath.Join(p.draft.dir, DisksDir, d.Name) }

// sealDisks brings the copies of the writable disks to disk, and the names of all.
func (p *pending) sealDisks() error {
	if len(p.record.Disks) == 0 || p.disksSealed {
		return nil
	}
	for _, d := range p.record.Disks {
		if d.ReadOnly {
			continue
		}
		f, err := os.Open(p.disk(d))
		if err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			// The kernel reports once what it could not write, and forgets it: a
			// second attempt would succeed with a disk that has lost it. So this is
			// not an error that may pass, whatever it is.
			err = fmt.Errorf("sync disk %s: %v", d.Name, err)
			return errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(filepath.Join(p.draft.dir, DisksDir)); err != nil {
		return err
	}
	p.disksSealed = true
	return nil
}

// discard removes all there is of the capture.
func (p *pending) discard() error {
	var errs []error
	if p.staged != nil {
		errs = append(errs, p.staged.Discard())
		p.staged = nil
	}
	if p.draft.dir != "" {
		errs = append(errs, p.draft.discard())
	}
	return errors.Join(errs...)
}
