package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/memimage"
)

// Stage is one capture in memory. One goroutine uses it at a time.
type Stage struct {
	area *Area
	dir  string
	// reserved is guarded by area.mu.
	reserved uint64
}

// ErrDiscarded: the stage is gone.
var ErrDiscarded = errors.New("stage was discarded")

// Path returns where the VMM is to write a file of the given name, which must be a
// base name. The stage's directory has no other files.
func (s *Stage) Path(name string) string { return filepath.Join(s.dir, name) }

// Settle reduces the reservation to what was written, and returns that. It is to be
// called when the VMM has finished, so that others may stage.
func (s *Stage) Settle() (uint64, error) {
	written, err := diskUsage(s.dir)
	if err != nil {
		return 0, fmt.Errorf("settle stage: %w", err)
	}
	s.area.mu.Lock()
	defer s.area.mu.Unlock()
	if !s.area.stages[s] {
		return 0, fmt.Errorf("settle stage %s: %w", s.dir, ErrDiscarded)
	}
	s.reserved = written
	return written, nil
}

// SealOptions says what becomes of the files of a stage.
type SealOptions struct {
	// Memory is the name of the memory file in the stage.
	Memory string
	// Files are the names of other files, such as the VM state, that the capture
	// needs.
	Files []string
	// Dir, Kind and Base are those of [memimage.SealOptions].
	Dir  string
	Kind memimage.Kind
	Base memimage.Manifest
}

// Seal makes a capture on disk of the files of a stage: first copies of the other
// files, of mode 0444 and under the same names, then a memory image with the staged
// memory as its newest layer. With memory.json in place the capture is complete and
// on disk.
//
// The staged files stay as they are. When Seal fails it takes back what it made in
// Dir, and may be called again.
func (s *Stage) Seal(ctx context.Context, o SealOptions) (memimage.Sealed, error) {
	s.area.mu.Lock()
	open := s.area.stages[s]
	s.area.mu.Unlock()
	if !open {
		return memimage.Sealed{}, fmt.Errorf("seal stage %s: %w", s.dir, ErrDiscarded)
	}
	var made []string
	sealed, err := s.seal(ctx, o, &made)
	if err != nil {
		for _, path := range made {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("roll back: %w", rerr))
			}
		}
		return memimage.Sealed{}, fmt.Errorf("seal stage: %w", err)
	}
	return sealed, nil
}

// seal lists in made what it made, but for the image, which comes last.
func (s *Stage) seal(ctx context.Context, o SealOptions, made *[]string) (memimage.Sealed, error) {
	for _, name := range o.Files {
		dst := filepath.Join(o.Dir, name)
		if _, err := memimage.Copy(ctx, s.Path(name), dst, 0o444); err != nil {
			return memimage.Sealed{}, err
		}
		*made = append(*made, dst)
	}
	return memimage.Seal(ctx, memimage.SealOptions{
		Source: s.Path(o.Memory), Keep: true, Dir: o.Dir, Kind: o.Kind, Base: o.Base,
	})
}

// Discard removes the stage's files and gives back its reservation: after Seal, or
// to give the capture up. A second Discard does nothing. When it fails the
// reservation stays, and it may be called again.
func (s *Stage) Discard() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("discard stage: %w", err)
	}
	s.area.mu.Lock()
	defer s.area.mu.Unlock()
	delete(s.area.stages, s)
	return nil
}
