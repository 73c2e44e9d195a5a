package chaos

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/internal/leftover"
)

// checkLeftovers looks for what a cell must not leave: processes of its directory, and
// sockets and journals below it.
func checkLeftovers(dir string) error {
	processes, err := leftover.Processes(dir)
	if err != nil {
		return err
	}
	if len(processes) > 0 {
		return fmt.Errorf("still running: %v", processes)
	}
	var files []string
	sessions := filepath.Join(dir, "data", "uffd", "*", "sessions")
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		journal, _ := filepath.Match(filepath.Join(sessions, "*"), path)
		pagers := strings.HasPrefix(path, filepath.Join(dir, "data"))
		if journal || pagers && entry.Type()&fs.ModeSocket != 0 {
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) > 0 {
		err = fmt.Errorf("left behind: %s", strings.Join(files, ", "))
	}
	return err
}
