package memimage

import (
	"context"
	"errors"
	"os"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// copy goes from indexed to moved when the source is kept.
func (s *sealing) copy(ctx context.Context, path string, ix *Index) error {
	s.undo.add(func() error { return removeIfThere(path) })
	out, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	if err := copyData(ctx, out.File, s.file, ix); err != nil {
		return errors.Join(err, out.Discard())
	}
	return out.Publish(0o444)
}

// copyData copies the data pages of a memory file into an empty one.
func copyData(ctx context.Context, dst, src *os.File, ix *Index) error {
	if err := dst.Truncate(int64(ix.Pages() * PageSize)); err != nil {
		return err
	}
	c := copier{dst: dst, src: src}
	for r := range ix.Runs() {
		if r.State != Data {
			continue
		}
		if err := c.copy(ctx, int64(r.Page*PageSize), int64(r.Pages*PageSize)); err != nil {
			return err
		}
	}
	return nil
}
