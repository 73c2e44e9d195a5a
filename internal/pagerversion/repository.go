package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

const (
	versionFile = "pager/VERSION"
	program     = "./cmd/faultline-pager"
)

// findBase returns the revision to compare with. If there is none, base is empty
// and why says what was looked for. A base that was asked for is not looked for.
func findBase(asked string) (base, why string) {
	if asked != "" {
		return asked, ""
	}
	if _, err := output("git", "rev-parse", "HEAD"); err != nil {
		return "", fmt.Sprintf("git knows no commit here (%v)", err)
	}
	// What a clean checkout of a release is compared with is the release before.
	from := "HEAD"
	if dirty, err := output("git", "status", "--porcelain"); err == nil && dirty == "" {
		if _, err := output("git", "describe", "--tags", "--exact-match", "--match", "v[0-9]*", "HEAD"); err == nil {
			from = "HEAD^"
		}
	}
	if tag, err := output("git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", from); err == nil {
		return tag, ""
	}
	return "", "there is no release tag (v1.2.3) before this commit; name a revision with BASE="
}

// oldVersion returns what VERSION said in base. A base without a pager had none.
func oldVersion(base string) (version, error) {
	if _, err := output("git", "rev-parse", "--verify", "--quiet", base+"^{commit}"); err != nil {
		return version{}, fmt.Errorf("revision %q is not in this clone (%w); fetch it, or name another", base, err)
	}
	listed, err := output("git", "ls-tree", "--name-only", base, "--", versionFile)
	if err != nil {
		return version{}, err
	}
	if listed == "" {
		return version{pre: []string{"0"}}, nil // 0.0.0-0 precedes every other
	}
	text, err := output("git", "show", base+":"+versionFile)
	if err != nil {
		return version{}, err
	}
	v, err := parseVersion(text)
	if err != nil {
		return version{}, fmt.Errorf("%s in %s: %w", versionFile, base, err)
	}
	return v, nil
}

// linked is what the pager's program consists of.
type linked struct {
	dirs    []string          // of this module's packages, relative to its root
	modules map[string]string // versions of the other modules
}

// changedRuntime lists the files of the pager's runtime code that differ from base,
// and the modules. A package that the pager no longer links is not looked at: its
// importer has changed then as well.
func changedRuntime(base string) ([]string, error) {
	l, err := linkedBy(program)
	if err != nil {
		return nil, err
	}
	var changed []string
	differing, err := output("git", append([]string{"diff", "--name-only", "--no-renames", base, "--"}, l.dirs...)...)
	if err != nil {
		return nil, err
	}
	untracked, err := output("git", append([]string{"ls-files", "--others", "--exclude-standard", "--"}, l.dirs...)...)
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(differing + "\n" + untracked) {
		if slices.Contains(l.dirs, path.Dir(name)) && isRuntime(name) {
			changed = append(changed, name)
		}
	}
	modules, err := changedModules(base, l.modules)
	if err != nil {
		return nil, err
	}
	slices.Sort(changed)
	return append(slices.Compact(changed), modules...), nil
}

// isRuntime tells code and what it may embed from tests and texts.
func isRuntime(name string) bool {
	return name != versionFile && !strings.HasSuffix(name, "_test.go") &&
		!strings.HasSuffix(name, ".md") && !strings.HasSuffix(name, ".txt")
}

func linkedBy(program string) (linked, error) {
	list, err := output("go", "list", "-deps", "-json=ImportPath,Module", program)
	if err != nil {
		return linked{}, err
	}
	l := linked{modules: map[string]string{}}
	for d := json.NewDecoder(strings.NewReader(list)); ; {
		var pkg struct {
			ImportPath string
			Module     *struct {
				Path, Version string
				Main          bool
			}
		}
		if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return linked{}, fmt.Errorf("what go list says of %s: %w", program, err)
		}
		switch {
		case pkg.Module == nil: // the standard library
		case pkg.Module.Main:
			l.dirs = append(l.dirs, path.Clean("./"+strings.TrimPrefix(pkg.ImportPath, pkg.Module.Path)))
		default:
			l.modules[pkg.Module.Path] = pkg.Module.Version
		}
	}
}

// changedModules lists the modules that have another version than base's go.mod
// required.
func changedModules(base string, now map[string]string) ([]string, error) {
	if len(now) == 0 {
		return nil, nil
	}
	text, err := output("git", "show", base+":go.mod")
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "go-*.mod")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(text + "\n")
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("a copy of go.mod: %w", err)
	}
	edited, err := output("go", "mod", "edit", "-json", file.Name())
	if err != nil {
		return nil, err
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal([]byte(edited), &mod); err != nil {
		return nil, fmt.Errorf("go.mod in %s: %w", base, err)
	}
	old := map[string]string{}
	for _, r := range mod.Require {
		old[r.Path] = r.Version
	}
	var changed []string
	for name, v := range now {
		if old[name] != v {
			changed = append(changed, fmt.Sprintf("module %s %s", name, v))
		}
	}
	slices.Sort(changed)
	return changed, nil
}

// output runs a command and returns what it printed, without blanks at the ends.
func output(name string, args ...string) (string, error) {
	text, err := exec.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			first, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
			err = fmt.Errorf("%w: %s", err, first)
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args[:min(2, len(args))], " "), err)
	}
	return strings.TrimSpace(string(text)), nil
}
