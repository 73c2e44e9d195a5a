package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repository makes a small module with a pager, commits it and goes there.
func repository(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not on PATH; install it")
	}
	// Neither the user's settings nor a surrounding repository count.
	for _, name := range []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+who+"_NAME", "test")
		t.Setenv("GIT_"+who+"_EMAIL", "test@example.org")
	}
	t.Chdir(t.TempDir())
	write(t, "go.mod", "module example.org/m\n\ngo 1.24\n")
	write(t, "pager/VERSION", "0.1.0\n")
	write(t, "pager/pager.go", "package pager\n\nimport (\n\t_ \"embed\"\n\n\t_ \"example.org/m/internal/linked\"\n)\n\n//go:embed VERSION\nvar V string\n")
	write(t, "pager/pager_test.go", "package pager\n")
	write(t, "pager/client/client.go", "package client\n")
	write(t, "internal/linked/linked.go", "package linked\n")
	write(t, "internal/other/other.go", "package other\n")
	write(t, "cmd/faultline-pager/main.go", "package main\n\nimport _ \"example.org/m/pager\"\n\nfunc main() {}\n")
	write(t, "cmd/faultline-pager/deps.txt", "x\n")
	git(t, "init", "--quiet", "--initial-branch=main")
	commit(t)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

func commit(t *testing.T) {
	t.Helper()
	git(t, "add", "--all")
	git(t, "commit", "--quiet", "--allow-empty", "--message=x")
}

// expect checks the program's end and one text of its output.
func expect(t *testing.T, what string, code int, text string, args ...string) {
	t.Helper()
	var stdout, stderr strings.Builder
	got := run(args, &stdout, &stderr)
	if all := stdout.String() + stderr.String(); got != code || !strings.Contains(all, text) {
		t.Errorf("%s: exit code %d, want %d; output, which should contain %q:\n%s", what, got, code, text, all)
	}
}

func TestWithoutRelease(t *testing.T) {
	repository(t)
	expect(t, "no tag", 0, "nothing to compare with")
	expect(t, "unknown base", 1, `revision "nonsense" is not in this clone`, "-base", "nonsense")
	write(t, "pager/VERSION", "1.0\n")
	expect(t, "a bad version", 1, "not a version")
	if err := os.RemoveAll(".git"); err != nil {
		t.Fatal(err)
	}
	write(t, "pager/VERSION", "0.1.0\n")
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(t.TempDir()))
	expect(t, "no repository", 0, "nothing to compare with")
}

func TestSinceRelease(t *testing.T) {
	repository(t)
	git(t, "tag", "v0.1.0")
	git(t, "tag", "other-9") // no release
	expect(t, "nothing changed", 0, "nothing to compare with")

	for name, code := range map[string]int{
		"pager/pager.go":               1,
		"pager/new.go":                 1, // not known to git
		"internal/linked/linked.go":    1,
		"cmd/faultline-pager/main.go":  1,
		"pager/pager_test.go":          0,
		"pager/client/client.go":       0,
		"internal/other/other.go":      0,
		"cmd/faultline-pager/deps.txt": 0,
		"README.md":                    0,
	} {
		old, err := os.ReadFile(name)
		text := string(old) + "\n// changed\n"
		if err != nil {
			text = "package pager\n"
		}
		write(t, name, text)
		for _, when := range []string{"before the commit", "after it"} {
			want := "its runtime code is that of v0.1.0"
			if code != 0 {
				want = name
			}
			expect(t, name+" "+when, code, want)
			git(t, "add", "--all")
			git(t, "commit", "--quiet", "--allow-empty", "--message=x")
		}
		git(t, "reset", "--quiet", "--hard", "v0.1.0")
	}
}

func TestIncrease(t *testing.T) {
	repository(t)
	git(t, "tag", "v0.1.0")
	write(t, "pager/pager.go", "package pager\n")
	commit(t)
	for text, code := range map[string]int{"0.1.0": 1, "0.0.9": 1, "0.1.0-rc.1": 1, "0.1.1": 0, "0.10.0": 0, "1.0.0-rc.1": 0} {
		write(t, "pager/VERSION", text+"\n")
		expect(t, "version "+text, code, text)
	}
	write(t, "pager/VERSION", "0.2.0\n")
	commit(t)
	git(t, "tag", "v0.2.0")
	expect(t, "a checkout of a release is compared with the one before", 0, "v0.1.0")
	expect(t, "a base that was asked for", 0, "that of HEAD", "-base", "HEAD")
	write(t, "pager/pager.go", "package pager\n\n// more\n")
	expect(t, "a change behind the last release", 1, "v0.2.0")
	commit(t)
	expect(t, "its commit", 1, "v0.2.0")
	write(t, "pager/VERSION", "0.1.9\n")
	expect(t, "a decrease", 1, "down to")
}

// TestModules changes a module that the pager links.
func TestModules(t *testing.T) {
	repository(t)
	for _, v := range []string{"1", "2"} {
		write(t, "dep"+v+"/go.mod", "module example.org/dep\n\ngo 1.24\n")
		write(t, "dep"+v+"/dep.go", "package dep\n")
	}
	write(t, "internal/linked/linked.go", "package linked\n\nimport _ \"example.org/dep\"\n")
	const mod = "module example.org/m\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n\nreplace example.org/dep => ./dep1\n"
	write(t, "go.mod", mod)
	commit(t)
	git(t, "tag", "v0.1.0")
	write(t, "README", "")
	commit(t)
	expect(t, "the same module", 0, "that of v0.1.0")
	write(t, "go.mod", strings.ReplaceAll(mod, "v1.0.0", "v1.0.1"))
	expect(t, "another version of a module", 1, "module example.org/dep v1.0.1")
}

// TestFirstPager compares with a commit that had none.
func TestFirstPager(t *testing.T) {
	repository(t)
	git(t, "rm", "-r", "--quiet", "--cached", "pager", "go.mod")
	git(t, "commit", "--quiet", "--message=x")
	expect(t, "a base without a pager", 0, "increased", "-base", "HEAD")
}

func TestArguments(t *testing.T) {
	expect(t, "an argument too many", 2, "", "extra")
	expect(t, "an unknown flag", 2, "", "-nonsense")
	t.Chdir(t.TempDir())
	expect(t, "another directory", 1, "top of the checkout")
}
