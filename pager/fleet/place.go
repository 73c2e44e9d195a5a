package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/control"
)

// root is where the versions have their directories.
func root(dataDir string) string { return filepath.Dir(pager.Dir(dataDir, "any")) }

// Versions lists the versions that have been used with a data directory, by name.
func Versions(dataDir string) ([]string, error) {
	entries, err := os.ReadDir(root(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the pager's versions: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// Places returns the version of every session that has a journal, by session. One
// that is handed over while this looks may be missing; see [Place].
func Places(dataDir string) (map[string]string, error) {
	names, err := Versions(dataDir)
	if err != nil {
		return nil, err
	}
	places := make(map[string]string)
	for _, version := range names {
		entries, err := os.ReadDir(sessionsDir(dataDir, version))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for sessions of the pager %s: %w", version, err)
		}
		for _, entry := range entries {
			if id := strings.TrimPrefix(entry.Name(), pager.MovingPrefix); entry.IsDir() && control.ValidID(id) {
				places[id] = version
			}
		}
	}
	return places, nil
}

// Place returns the version that has a session. There is none when the session is
// over, or never was.
func Place(dataDir, id string) (version string, ok bool, err error) {
	if !control.ValidID(id) {
		return "", false, nil
	}
	// A journal that moves while this looks can be missed once: it was not yet there
	// and then no longer here.
	for range 2 {
		names, err := Versions(dataDir)
		if err != nil {
			return "", false, err
		}
		for _, version := range names {
			for _, name := range []string{id, pager.MovingPrefix + id} {
				_, err := os.Stat(filepath.Join(sessionsDir(dataDir, version), name))
				if err == nil {
					return version, true, nil
				}
				if !errors.Is(err, fs.ErrNotExist) {
					return "", false, fmt.Errorf("looking for session %s: %w", id, err)
				}
			}
		}
	}
	return "", false, nil
}

func sessionsDir(dataDir, version string) string {
	return filepath.Join(pager.Dir(dataDir, version), "sessions")
}
