// Package pagertest builds the pager program under another version, so that tests
// can run several versions side by side and upgrade from one to the other.
//
// It owns nothing and touches nothing but the directory that it is given.
package pagertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds faultline-pager into dir as if pager/VERSION held version, and
// returns its path. It needs the go command and this module's source around the
// working directory. The source is not changed: the build reads another file in
// place of VERSION (go build -overlay).
func Build(dir, version string) (string, error) {
	output, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", withStderr(err))
	}
	module := strings.TrimSpace(string(output))
	if module == "" {
		return "", errors.New("no module around the working directory: work in the project's source")
	}
	versionFile := filepath.Join(dir, "VERSION-"+version)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(module, "pager", "VERSION"): versionFile}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, "overlay-"+version+".json")
	if err := errors.Join(os.WriteFile(versionFile, []byte(version+"\n"), 0o644), os.WriteFile(overlayFile, overlay, 0o644)); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "faultline-pager-"+version)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", overlayFile, "-o", binary, "./cmd/faultline-pager")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := build.Output(); err != nil {
		return "", fmt.Errorf("building the pager %s: %w", version, withStderr(err))
	}
	return binary, nil
}

func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}
