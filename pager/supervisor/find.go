package supervisor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// binaryName is the name of the pager's program.
const binaryName = "faultline-pager"

// FindBinary returns the path of the pager: the configured one, else where a build or
// an installation puts it, which is beside this program or on PATH.
func FindBinary(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), binaryName)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(binaryName)
	if err != nil {
		return "", errors.New("no " + binaryName + " beside this program or on PATH: run make build")
	}
	return filepath.Abs(path)
}
