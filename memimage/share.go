package memimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/atomicfile"
)

// Share gives the regular file src a further name dst, so that the owner of dst
// keeps the content whatever happens to src. It is for files that nobody writes
// any more: both names are the same file wherever a hard link is possible.
//
// Where it is not, for the filesystem is another one (EXDEV), the file has as many
// links as it can (EMLINK) or the kernel forbids it (EPERM), dst becomes a copy by
// the ladder of [Copy], of mode 0444. [Shared.Reason] says why; every other error
// is returned. Nothing may be at dst ([fs.ErrExist]); after an error nothing is.
//
// A source that is missing gives a *FileError of reason [ErrMissing], and only such
// a one. The name is on disk when Share returns.
func Share(ctx context.Context, src, dst string) (Shared, error) {
	shared, err := share(ctx, src, dst)
	if err != nil {
		return Shared{}, err
	}
	if err := atomicfile.SyncDir(filepath.Dir(dst)); err != nil {
		return Shared{}, fmt.Errorf("share %s as %s: %w", src, dst, errors.Join(err, os.Remove(dst)))
	}
	return shared, nil
}

// share is Share without the fsync of the directory of dst, for a caller who makes
// several names in it.
func share(ctx context.Context, src, dst string) (Shared, error) {
	if err := ctx.Err(); err != nil {
		return Shared{}, err
	}
	// Opening finds a symbolic link, a directory or a pipe, which link(2) would
	// take as they are.
	f, err := openSource(src)
	if err != nil {
		return Shared{}, err
	}
	defer f.Close()
	err = os.Link(src, dst)
	if err == nil {
		return Shared{Rung: HardLink}, nil
	}
	if !refusesLink(err) {
		return Shared{}, err
	}
	shared, cerr := copyTo(ctx, f, dst, func(out *atomicfile.File) error { return out.Publish(0o444) })
	if cerr != nil {
		return Shared{}, errors.Join(err, cerr)
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		err = fmt.Errorf("link %s: %w", src, link.Err)
	}
	if shared.Reason != nil {
		// One line, as both go into one warning.
		err = fmt.Errorf("%w; %w", err, shared.Reason)
	}
	shared.Reason = err
	return shared, nil
}

// refusesLink tells whether a copy may stand in for a hard link that failed.
func refusesLink(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM)
}
