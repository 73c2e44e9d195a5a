package lint

import (
	"bytes"
	"go/ast"
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxLines     = 800
	maxMainLines = 30
)

// Where golang.org/x/sys may be imported: system calls have few homes.
var syscallHomes = []string{"uffd", "memimage", "pager", "fcsim", "hypervisor", "internal"}

func TestFormatted(t *testing.T) {
	for _, f := range goFiles(t) {
		formatted, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		} else if !bytes.Equal(formatted, f.text) {
			t.Errorf("%s is not formatted; run gofmt -w %[1]s", f.name)
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, f := range goFiles(t) {
		lines, limit := bytes.Count(f.text, []byte("\n")), maxLines
		if ok, _ := filepath.Match("cmd/*/main.go", f.name); ok {
			limit = maxMainLines
		}
		if lines > limit {
			t.Errorf("%s has %d lines, more than %d; split it", f.name, lines, limit)
		}
	}
}

func TestPackageComments(t *testing.T) {
	type pkg struct {
		name     string
		comments []string
	}
	packages := map[string]*pkg{}
	for _, f := range goFiles(t) {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		p := packages[f.dir()]
		if p == nil {
			p = &pkg{name: name}
			packages[f.dir()] = p
		}
		if f.ast.Doc != nil {
			p.comments = append(p.comments, f.ast.Doc.Text())
		}
	}
	for dir, p := range packages {
		start := "Package " + p.name + " "
		if p.name == "main" {
			start = "Command " + filepath.Base(dir) + " "
		}
		documented := slices.ContainsFunc(p.comments, func(text string) bool { return strings.HasPrefix(text, start) })
		if !documented {
			t.Errorf("%s has no package comment that begins with %q; say what it owns, its lock order, what it may not touch", dir, start)
		}
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: has an init function; do it where the program starts", f.fset.Position(fn.Pos()))
			}
		}
	}
}

func TestImports(t *testing.T) {
	for _, f := range goFiles(t) {
		home, _, _ := strings.Cut(f.dir(), "/")
		for _, imported := range f.imports() {
			switch {
			case imported == "unsafe" && !strings.HasSuffix(f.name, "_unsafe.go") && !strings.HasSuffix(f.name, "_unsafe_test.go"):
				t.Errorf("%s imports unsafe; move that part into a file whose name ends in _unsafe.go", f.name)
			case imported == "C":
				t.Errorf("%s uses cgo; the project builds without a C compiler", f.name)
			case strings.HasPrefix(imported, "golang.org/x/sys/") && !f.test() && !slices.Contains(syscallHomes, home):
				t.Errorf("%s imports %s; only %s may", f.name, imported, strings.Join(syscallHomes, ", "))
			}
		}
	}
}

// The patterns do not match themselves.
var (
	machinePath = regexp.MustCompile(`(^|[^\w.-])/(home|root|work|Users)/[\w.-]`)
	promise     = regexp.MustCompile(`\b(TOD[O]|FIXM[E]|XX[X])\b`)
)

func TestNoMachinePaths(t *testing.T) {
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tree(t) {
		for i, line := range bytes.Split(f.text, []byte("\n")) {
			if machinePath.Match(line) || bytes.Contains(line, []byte(top+"/")) {
				t.Errorf("%s:%d names a path of one machine: %s", f.name, i+1, bytes.TrimSpace(line))
			}
		}
	}
}

func TestNoPromises(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, group := range f.ast.Comments {
			if found := promise.FindString(group.Text()); found != "" {
				t.Errorf("%s: a comment says %s; do it or write down why not", f.fset.Position(group.Pos()), found)
			}
		}
	}
}

func TestNoBinaries(t *testing.T) {
	for _, f := range tree(t) {
		if bytes.IndexByte(f.text, 0) >= 0 {
			t.Errorf("%s is a binary file; make it when it is needed", f.name)
		}
	}
}

func TestScriptsAreExecutable(t *testing.T) {
	for _, f := range tree(t) {
		if !bytes.HasPrefix(f.text, []byte("#!")) {
			continue
		}
		info, err := os.Stat(filepath.Join(root, filepath.FromSlash(f.name)))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o100 == 0 {
			t.Errorf("%s begins with #! and is not executable; run chmod +x %[1]s", f.name)
		}
	}
}
