package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// Program returns the path of the pager's program of a version. It may be the
// configured one, one that an installation has put below lib/faultline/pager beside
// the directory of this program, or what [supervisor.FindBinary] finds.
func Program(ctx context.Context, configured, version string) (string, error) {
	var candidates []string
	if configured != "" {
		candidates = append(candidates, configured)
	}
	if self, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(self), "..", "lib", "faultline", "pager", version, "faultline-pager"))
	}
	if found, err := supervisor.FindBinary(""); err == nil {
		candidates = append(candidates, found)
	}
	var reasons []string
	for _, path := range candidates {
		got, err := ProgramVersion(ctx, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			reasons = append(reasons, filepath.Clean(path)+" does not exist")
		case err != nil:
			reasons = append(reasons, err.Error())
		case got != version:
			reasons = append(reasons, fmt.Sprintf("%s is version %s", path, got))
		default:
			return path, nil
		}
	}
	remedy := "install that version with make install"
	if version == pager.Version() {
		remedy = "run make build, or install it with make install"
	}
	return "", fmt.Errorf("no program of the pager %s is here (%s); %s", version, strings.Join(reasons, ", "), remedy)
}

// ProgramVersion asks a program of the pager for its version.
func ProgramVersion(ctx context.Context, path string) (string, error) {
	output, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(output)), "faultline-pager ")
	if !ok {
		return "", fmt.Errorf("%s is no pager: it says %.80q when asked for its version", path, output)
	}
	return version, nil
}
