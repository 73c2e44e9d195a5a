package memimage

import (
	"context"
	"errors"
	"fmt"
)

// Export writes the memory of an image to path as one flat file, sparse and of mode
// 0600: what Firecracker's File backend restores from. The file belongs to the
// caller; it shares blocks with the layers where the filesystem can, and nothing
// else. Nothing may be at path; after an error nothing is.
func Export(ctx context.Context, manifestPath, path string, progress Progress) error {
	img, err := Open(manifestPath)
	if err != nil {
		return err
	}
	if err := errors.Join(writeFlat(ctx, img, path, 0o600, progress), img.Close()); err != nil {
		return fmt.Errorf("export %s: %w", manifestPath, err)
	}
	return nil
}
