package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// VersionStatus is a version of the pager that has been used with a data directory.
type VersionStatus struct {
	Version string
	// Health is what the pager of this version answered; meaningless if Err is set.
	Health control.Health
	// Err says why it did not answer. One that was drained, or never started
	// again, wraps fs.ErrNotExist.
	Err error
}

// Versions lists the versions of the pager that have a directory below dataDir, by
// name, and asks each for its health. A data directory that no pager has used
// gives none.
func Versions(ctx context.Context, dataDir string) ([]VersionStatus, error) {
	entries, err := os.ReadDir(filepath.Dir(pager.Dir(dataDir, "any")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the pager's versions: %w", err)
	}
	var list []VersionStatus
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		v := VersionStatus{Version: entry.Name()}
		v.Health, v.Err = ask(ctx, pager.ControlSocket(dataDir, v.Version))
		list = append(list, v)
	}
	return list, nil
}

func ask(ctx context.Context, socket string) (control.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := client.New(socket)
	defer c.Close()
	return c.Health(ctx)
}
