package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/memimage"
)

// Sharing says how files came to their further names, and writable disks to their
// copies. Where hard links are impossible a fork costs what it was meant not to
// cost: a caller should log the reasons and count the rungs.
type Sharing struct {
	// Rungs counts the sealed files by the rung that worked: anything but a hard
	// link is dearer than it has to be.
	Rungs map[memimage.Rung]int
	// Reasons has one entry for each of them that could not be hard-linked, naming
	// it and the system's error.
	Reasons []error
	// Copies counts the writable disks by the rung that worked. They are never
	// hard-linked.
	Copies map[memimage.Rung]int
	// CopyReasons is like Reasons, for disks that do not share blocks with what they
	// are copies of.
	CopyReasons []error
}

// Add adds what was shared in another step.
func (s *Sharing) Add(other Sharing) {
	count(&s.Rungs, other.Rungs)
	count(&s.Copies, other.Copies)
	s.Reasons = append(s.Reasons, other.Reasons...)
	s.CopyReasons = append(s.CopyReasons, other.CopyReasons...)
}

// AddFile adds a sealed file that got a further name.
func (s *Sharing) AddFile(one memimage.Shared) {
	s.Add(Sharing{Rungs: map[memimage.Rung]int{one.Rung: 1}, Reasons: reasons(one)})
}

// AddCopy adds a writable disk that was copied.
func (s *Sharing) AddCopy(one memimage.Shared) {
	s.Add(Sharing{Copies: map[memimage.Rung]int{one.Rung: 1}, CopyReasons: reasons(one)})
}

// AddImage adds the files of a memory image.
func (s *Sharing) AddImage(image memimage.SharedImage) {
	s.Add(Sharing{Rungs: image.Rungs, Reasons: image.Reasons})
}

func reasons(one memimage.Shared) []error {
	if one.Reason == nil {
		return nil
	}
	return []error{one.Reason}
}

func count(sum *map[memimage.Rung]int, more map[memimage.Rung]int) {
	for rung, n := range more {
		if *sum == nil {
			*sum = make(map[memimage.Rung]int)
		}
		(*sum)[rung] += n
	}
}

// Linked is a capture that got an owner of its own.
type Linked struct {
	Capture Capture
	Sharing Sharing
}

// Link gives the capture c a further owner: dir becomes a directory of the same
// content and id, which stays whole whatever happens to c. No byte of memory or
// disk is read or written, unless hard links are impossible. A snapshot is made
// this way.
//
// Nothing may be at dir (fs.ErrExist); its parent must exist. After an error, or a
// crash and a [Sweep] of the parent, nothing is there.
func Link(ctx context.Context, c Capture, dir string) (out Linked, err error) {
	d, err := makeDraft(dir)
	if err != nil {
		return Linked{}, fmt.Errorf("link capture %s: %w", c.Dir, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("link capture %s to %s: %w", c.Dir, dir, errors.Join(err, d.discard()))
		}
	}()
	if out.Sharing, err = linkInto(ctx, c, d.dir); err != nil {
		return Linked{}, err
	}
	if err := d.publish(); err != nil {
		return Linked{}, err
	}
	out.Capture = Capture{Dir: dir, Record: c.Record}
	return out, nil
}

// linkInto fills the directory dir with further names of the capture's files.
func linkInto(ctx context.Context, c Capture, dir string) (out Sharing, err error) {
	image, err := memimage.ShareImage(ctx, c.ManifestPath(), dir)
	if err != nil {
		return Sharing{}, err
	}
	out.AddImage(image)
	names := []string{StateName, RecordName}
	if len(c.Record.Disks) > 0 {
		if err := os.Mkdir(filepath.Join(dir, DisksDir), 0o700); err != nil {
			return Sharing{}, err
		}
	}
	for _, d := range c.Record.Disks {
		// The capture's disks are as immutable as its memory.
		names = append(names, filepath.Join(DisksDir, d.Name))
	}
	for _, name := range names {
		shared, err := memimage.Share(ctx, filepath.Join(c.Dir, name), filepath.Join(dir, name))
		if err != nil {
			return Sharing{}, err
		}
		out.AddFile(shared)
	}
	return out, nil
}

// ForkOptions say what to make of a capture.
type ForkOptions struct {
	// Dir is the directory of the new instance. Nothing may be there (fs.ErrExist);
	// its parent must exist.
	Dir string
	// Prepare, if not nil, is called with the directory under its temporary name
	// when it is complete. What it puts there, such as the instance's own record,
	// is published together with the rest; it must bring its files to disk.
	Prepare func(dir string) error
}

// CapturesDir is where an instance keeps its captures.
const CapturesDir = "captures"

// Fork makes the directory of a new instance out of a capture: captures/<id> as by
// [Link], and disks as by [PlaceDisks]. A VMM that is started in it restores
// captures/<id>/vmstate and finds the disks under the names that it knows. The
// result is the instance's own capture, and what its [Lineage] begins with.
//
// No byte of memory is read or written, and the time does not depend on the size
// of memory; the time for a writable disk depends on the filesystem (reflink, else
// a sparse copy). After an error, or a crash and a [Sweep] of the parent, nothing
// is at the directory.
func Fork(ctx context.Context, c Capture, o ForkOptions) (out Linked, err error) {
	d, err := makeDraft(o.Dir)
	if err != nil {
		return Linked{}, fmt.Errorf("fork capture %s: %w", c.Dir, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("fork capture %s to %s: %w", c.Dir, o.Dir, errors.Join(err, d.discard()))
		}
	}()
	captures := filepath.Join(d.dir, CapturesDir)
	if err := os.Mkdir(captures, 0o700); err != nil {
		return Linked{}, err
	}
	own := filepath.Join(captures, c.Record.ID)
	if err := os.Mkdir(own, 0o700); err != nil {
		return Linked{}, err
	}
	if out.Sharing, err = linkInto(ctx, c, own); err != nil {
		return Linked{}, err
	}
	// The disks come from the capture's new names: whoever removes the source
	// meanwhile makes the fork fail before this, or not at all.
	placed, err := PlaceDisks(ctx, Capture{Dir: own, Record: c.Record}, d.dir)
	if err != nil {
		return Linked{}, err
	}
	out.Sharing.Add(placed)
	if o.Prepare != nil {
		if err := o.Prepare(d.dir); err != nil {
			return Linked{}, err
		}
	}
	for _, dir := range []string{own, captures} {
		if err := atomicfile.SyncDir(dir); err != nil {
			return Linked{}, err
		}
	}
	if err := d.publish(); err != nil {
		return Linked{}, err
	}
	out.Capture = Capture{Dir: filepath.Join(o.Dir, CapturesDir, c.Record.ID), Record: c.Record}
	return out, nil
}

// PlaceDisks makes the disks of an instance what they were when c was taken: a
// private copy of each writable one, a further name of each other, in disks/ below
// instanceDir. What is there under their names is replaced. No VMM may run there.
//
// It must have succeeded before a VMM restores c. After an error some disks may be
// replaced and others missing, and it has to be repeated.
func PlaceDisks(ctx context.Context, c Capture, instanceDir string) (out Sharing, err error) {
	if len(c.Record.Disks) == 0 {
		return Sharing{}, nil
	}
	dir := filepath.Join(instanceDir, DisksDir)
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := atomicfile.SyncDir(instanceDir); err != nil {
			return Sharing{}, err
		}
	case !errors.Is(err, fs.ErrExist):
		return Sharing{}, err
	}
	for _, d := range c.Record.Disks {
		from, to := filepath.Join(c.Dir, DisksDir, d.Name), filepath.Join(dir, d.Name)
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Sharing{}, fmt.Errorf("replace disk %s: %w", d.Name, err)
		}
		if err := placeDisk(ctx, d, from, to, &out); err != nil {
			return Sharing{}, fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return out, nil
}

// placeDisk gives a disk another name, and another file if it is writable.
func placeDisk(ctx context.Context, d Disk, from, to string, out *Sharing) error {
	if d.ReadOnly {
		shared, err := memimage.Share(ctx, from, to)
		if err == nil {
			out.AddFile(shared)
		}
		return err
	}
	shared, err := memimage.Copy(ctx, from, to, 0o600)
	if err == nil {
		out.AddCopy(shared)
	}
	return err
}
