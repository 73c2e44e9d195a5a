package lint

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the checked-in list of packages that the pager links")

const depsFile = root + "/cmd/faultline-pager/deps.txt"

// TestPagerDependencies compares the packages that the pager links with a list
// that somebody has read. The pager outlives everything else on a host and holds
// the right to write into every guest: what it links is a decision.
func TestPagerDependencies(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/faultline-pager")
	list.Dir = root
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := list.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("list the packages of the pager: %v", err)
	}
	linked := strings.Fields(string(output))
	slices.Sort(linked)
	if *update {
		if err := os.WriteFile(depsFile, []byte(strings.Join(linked, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(depsFile)
	if err != nil {
		t.Fatalf("%v; write it with go test ./internal/lint -update", err)
	}
	listed := strings.Fields(string(text))
	for _, pkg := range linked {
		if !slices.Contains(listed, pkg) {
			t.Errorf("the pager now links %s; if that is meant, run go test ./internal/lint -update", pkg)
		}
	}
	for _, pkg := range listed {
		if !slices.Contains(linked, pkg) {
			t.Errorf("the pager no longer links %s; run go test ./internal/lint -update", pkg)
		}
	}
}
