package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module writes a module with the given test files and makes it the working
// directory, so that the real go command produces what testreport reads.
func module(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.test/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

const header = "import (\"os\"; \"testing\")\nvar _ = os.Exit\nvar _ testing.TB\n"

func TestReport(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		args  []string
		code  int
		last  string
		says  []string
	}{
		{
			name: "pass, subtests count instead of their parent",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) { t.Run("x", func(*testing.T) {}); t.Run("y", func(*testing.T) {}) }`},
			code: 0, last: "3 passed, 0 failed, 0 skipped",
			says: []string{"ok   example.test/m/a"},
		},
		{
			name: "skips are grouped by reason",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) { t.Skip("no widget; buy one") }
func TestC(t *testing.T) { t.Log("thinking"); t.Run("x", func(t *testing.T) { t.Skip("no widget; buy one") }) }
func TestD(t *testing.T) { t.SkipNow() }`},
			code: 0, last: "1 passed, 0 failed, 3 skipped",
			says: []string{"  no widget; buy one\n    example.test/m/a TestB (s)\n    example.test/m/a TestC/x (s)\n", "  no reason given\n"},
		},
		{
			name: "a test that is skipped in two runs counts twice and is listed once",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) { t.Skip("no widget; buy one") }`},
			args: []string{"-run", "s: ./...", "-run", "again: ./..."},
			code: 0, last: "2 passed, 0 failed, 2 skipped",
			says: []string{"    example.test/m/a TestB (s, again)\n"},
		},
		{
			name: "a failing subtest counts once and is shown",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) { t.Run("x", func(t *testing.T) { t.Error("it is wrong") }) }`},
			code: 1, last: "0 passed, 1 failed, 0 skipped",
			says: []string{"FAIL example.test/m/a TestA/x (s)", "it is wrong"},
		},
		{
			name: "a test that kills its binary fails",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) { go func() { panic("boom") }(); select {} }`},
			code: 1, last: "1 passed, 1 failed, 0 skipped",
			says: []string{"boom"},
		},
		{
			name: "an exit inside a test fails",
			files: map[string]string{"a/a_test.go": "package a\n" + header + `
func TestA(t *testing.T) { t.Run("x", func(t *testing.T) { os.Exit(7) }) }`},
			code: 1, last: "0 passed, 1 failed, 0 skipped",
		},
		{
			name: "a package that does not build fails",
			files: map[string]string{
				"a/a_test.go": "package a\n" + header + "func TestA(t *testing.T) {}",
				"b/b_test.go": "package b\n" + header + "func TestB(t *testing.T) { nonsense() }",
			},
			code: 1, last: "1 passed, 1 failed, 0 skipped",
			says: []string{"undefined: nonsense"},
		},
		{
			name:  "a TestMain that fails is a failure",
			files: map[string]string{"a/a_test.go": "package a\n" + header + "func TestMain(*testing.M) { os.Exit(3) }"},
			code:  1, last: "0 passed, 1 failed, 0 skipped",
		},
		{
			name:  "no test at all is no success",
			files: map[string]string{"a/a.go": "package a"},
			code:  1, last: "0 passed, 0 failed, 0 skipped",
			says: []string{"no test ran"},
		},
		{
			name:  "a wrong pattern is a failure",
			files: map[string]string{"a/a_test.go": "package a\n" + header + "func TestA(t *testing.T) {}"},
			args:  []string{"-run", "s: ./nowhere"},
			code:  1, last: "0 passed, 1 failed, 0 skipped",
		},
		{
			name:  "a race run without a C compiler is skipped by package",
			files: map[string]string{"a/a_test.go": "package a\n" + header + "func TestA(t *testing.T) {}"},
			args:  []string{"-run", "s: ./...", "-run", "race: -race ./..."},
			code:  0, last: "1 passed, 0 failed, 1 skipped",
			says: []string{"no race run: the C compiler \"no-such-compiler\" is not on PATH"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			module(t, test.files)
			t.Setenv("CC", "no-such-compiler")
			t.Setenv("CGO_ENABLED", "0")
			t.Setenv("GOFLAGS", "-mod=mod")
			if test.args == nil {
				test.args = []string{"-run", "s: ./..."}
			}
			var out, stderr bytes.Buffer
			code := report(context.Background(), test.args, strings.NewReader(""), &out, &stderr)
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if last := lines[len(lines)-1]; last != test.last {
				t.Errorf("last line %q, want %q", last, test.last)
			}
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, want := range test.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output lacks %q", want)
				}
			}
			if t.Failed() {
				t.Logf("stdout:\n%s\nstderr:\n%s", out.String(), stderr.String())
			}
		})
	}
}

func TestReportReadsStandardInput(t *testing.T) {
	input := `{"Action":"run","Package":"p","Test":"TestA"}
not JSON
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Elapsed":0.5}
`
	var out, stderr bytes.Buffer
	code := report(context.Background(), nil, strings.NewReader(input), &out, &stderr)
	want := "not JSON\nok   p 0.5s: 1 passed\n1 passed, 0 failed, 0 skipped\n"
	if code != 0 || out.String() != want {
		t.Errorf("code %d, output %q, want 0 and %q", code, out.String(), want)
	}
}
