package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/memimage"
)

// scribe stands in for the VMM of a guest that is too large to be run for a
// benchmark: its snapshots are sparse files of the guest's size.
type scribe struct {
	hypervisor.VMM // nil: a capture asks for no more than what is below
	dir            string
	memory         uint64
}

func (s scribe) Ref() hypervisor.ProcessRef { return hypervisor.ProcessRef{Dir: s.dir} }

func (s scribe) State(context.Context) (hypervisor.State, error) { return hypervisor.Paused, nil }

// Snapshot writes a megabyte of data at the begin of every 16.
func (s scribe) Snapshot(_ context.Context, spec hypervisor.SnapshotSpec) error {
	if err := os.WriteFile(filepath.Join(s.dir, spec.StatePath), make([]byte, 64<<10), 0o600); err != nil {
		return err
	}
	const piece, distance = 1 << 20, 16 << 20
	return writeSparse(filepath.Join(s.dir, spec.MemoryPath), s.memory, func(f *os.File) error {
		data := make([]byte, piece)
		for i := range data {
			data[i] = byte(i>>8) | 1
		}
		for at := uint64(0); at < s.memory; at += distance {
			if _, err := f.WriteAt(data, int64(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeSparse makes a file of size bytes, has fill write into it, and brings it to
// disk.
func writeSparse(path string, size uint64, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// A close after a sync loses nothing; before, the error is what matters.
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Sync()
}

// largeCapture makes a capture of a guest of so much memory.
func (r *run) largeCapture(name string, memory uint64) (capture.Capture, error) {
	dir := filepath.Join(r.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return capture.Capture{}, err
	}
	taken, err := capture.Take(r.ctx, capture.Request{
		VMM: scribe{dir: dir, memory: memory}, Lineage: capture.Booted(false),
		Hypervisor: hypervisor.Description{Name: "fcsim", Version: "v0.0.0"},
	})
	return taken.Capture, err
}

// stackImage makes an image of several layers with scattered pages, and returns the
// path of its manifest.
func (r *run) stackImage(name string) (string, error) {
	dir := filepath.Join(r.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	random := rand.New(rand.NewPCG(1, 2))
	pages := r.stackGuest / memimage.PageSize
	var base memimage.Manifest
	for i := range r.stackLayers {
		raw := filepath.Join(dir, "memory")
		err := writeSparse(raw, r.stackGuest, func(f *os.File) error {
			data := make([]byte, memimage.PageSize)
			for range r.stackPages {
				page := random.Uint64N(pages)
				data[0], data[1] = byte(i+1), byte(page)
				if _, err := f.WriteAt(data, int64(page*memimage.PageSize)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		kind := memimage.Diff
		if i == 0 {
			kind = memimage.Full
		}
		if base, err = r.sealOver(raw, dir, kind, base); err != nil {
			return "", err
		}
		r.say("open: layer %d of %d", i+1, r.stackLayers)
	}
	return filepath.Join(dir, memimage.ManifestName), nil
}

// sealOver seals a further layer into the directory of an image. That is not how
// captures are made, which get directories of their own; it saves links here.
func (r *run) sealOver(raw, dir string, kind memimage.Kind, base memimage.Manifest) (memimage.Manifest, error) {
	if kind == memimage.Diff {
		if err := os.Remove(filepath.Join(dir, memimage.ManifestName)); err != nil {
			return memimage.Manifest{}, err
		}
	}
	sealed, err := memimage.Seal(r.ctx, memimage.SealOptions{Source: raw, Dir: dir, Kind: kind, Base: base})
	return sealed.Manifest, err
}
