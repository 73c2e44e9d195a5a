package memimage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// VMStateName is the file of the VM state in the directory of a capture.
const VMStateName = "vmstate"

// maxVMStateBytes is the largest VM state that Firecracker loads (v1.16: 10 MB,
// taken generously).
const maxVMStateBytes = 10 << 20

// ImportOptions says which files a VMM made elsewhere. Memory and Dir are
// required.
type ImportOptions struct {
	// Memory is the memory file of a Full snapshot, sparse or dense.
	Memory string
	// Diffs are the memory files of Diff snapshots over it, oldest first. They
	// must still have the holes that Firecracker left: a hole is what says that
	// a page did not change.
	Diffs []string
	// VMState is the VM state that goes with the newest of these files. Empty
	// imports none.
	VMState string
	// Dir is the directory of the image, which must exist and hold none.
	Dir string
}

// Import makes an image of memory files that a VMM wrote elsewhere: one layer of
// each. The files are only read, may be on any filesystem, and share blocks with
// the layers where that is possible. The VM state is copied to the file
// [VMStateName] of the directory.
//
// Files of a size that no memory or no VM state can have, diffs of another size
// than the memory and diffs that have lost their holes give a *FileError. When
// Import fails the directory is as it was; a crash leaves it without memory.json,
// and it can be removed as a whole.
func Import(ctx context.Context, o ImportOptions) (Manifest, error) {
	if err := checkFree(o.Dir); err != nil {
		return Manifest{}, err
	}
	i := importing{o: o}
	m, err := i.run(ctx)
	if err != nil {
		return Manifest{}, fmt.Errorf("import %s: %w", o.Memory, errors.Join(err, i.undo.rollBack()))
	}
	return m, nil
}

// importing is one Import under way.
type importing struct {
	o    ImportOptions
	undo undo
}

func (i *importing) run(ctx context.Context) (Manifest, error) {
	if err := i.vmState(ctx); err != nil {
		return Manifest{}, err
	}
	m, err := i.layer(ctx, SealOptions{Source: i.o.Memory, Dir: i.o.Dir, Kind: Full, Keep: true})
	if err != nil {
		return Manifest{}, err
	}
	for _, diff := range i.o.Diffs {
		m, err = i.layer(ctx, SealOptions{Source: diff, Dir: i.o.Dir, Kind: Diff, Base: m, Keep: true})
		if err != nil {
			return Manifest{}, err
		}
	}
	return m, publishManifest(i.o.Dir, m, &i.undo)
}

// vmState copies the VM state.
func (i *importing) vmState(ctx context.Context) error {
	if i.o.VMState == "" {
		return nil
	}
	f, err := openSource(i.o.VMState)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return openError(i.o.VMState, "", err)
	}
	if size := info.Size(); size == 0 || size > maxVMStateBytes {
		return &FileError{
			Path: i.o.VMState, Reason: ErrMismatch, Detail: fmt.Sprintf("%d bytes are no VM state, which has 1 to %d", size, maxVMStateBytes),
			Remedy: "give the file of snapshot_path, not that of mem_file_path",
		}
	}
	dst := filepath.Join(i.o.Dir, VMStateName)
	if _, err := copyTo(ctx, f, dst, func(out *atomicfile.File) error { return out.Publish(0o444) }); err != nil {
		return err
	}
	i.undo.add(func() error { return removeIfThere(dst) })
	return nil
}

// layer makes a layer of one file, and returns the manifest that ends in it.
func (i *importing) layer(ctx context.Context, o SealOptions) (Manifest, error) {
	s := sealing{o: o, id: NewLayerID()}
	if err := s.open(); err != nil {
		return Manifest{}, err
	}
	defer s.file.Close()
	out, err := s.layer(ctx)
	if err == nil && o.Kind == Diff && out.Pages.Absent == 0 && out.ZeroData > 0 {
		err = &FileError{
			Path: o.Source, Reason: ErrCoarseHoles, Detail: "it is a diff without a single hole",
			Remedy: "copy the diff again with a tool that keeps holes; if the guest did write all of its memory, import this file as the memory and leave out those before it",
		}
	}
	if err != nil {
		return Manifest{}, errors.Join(err, s.undo.rollBack())
	}
	i.undo = append(i.undo, s.undo...)
	return out.Manifest, nil
}
