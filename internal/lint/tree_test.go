package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// sourceFile is one file of the tree. Name is relative to the root, with slashes.
type sourceFile struct {
	name string
	text []byte
}

// goFile is a parsed Go file.
type goFile struct {
	sourceFile
	fset *token.FileSet
	ast  *ast.File
}

func (f goFile) dir() string { return path.Dir(f.name) }
func (f goFile) test() bool  { return strings.HasSuffix(f.name, "_test.go") }
func (f goFile) imports() (paths []string) {
	for _, spec := range f.ast.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// tree returns every file below the root but those that git ignores. It does not
// ask git: the tests must also run for a user whom git does not trust with a
// checkout that is somebody else's.
func tree(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if rel == ".git" || rel == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, sourceFile{filepath.ToSlash(rel), text})
		return nil
	})
	if err != nil {
		t.Fatalf("read the source tree: %v", err)
	}
	return files
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	for _, f := range tree(t) {
		if !strings.HasSuffix(f.name, ".go") || strings.Contains(f.name, "testdata/") {
			continue
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, f.name, f.text, parser.ParseComments)
		if err != nil {
			t.Errorf("%s does not parse: %v", f.name, err)
			continue
		}
		files = append(files, goFile{f, fset, parsed})
	}
	if len(files) < 10 {
		t.Fatalf("only %d Go files found: the tests look at the wrong tree", len(files))
	}
	return files
}
