package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// names lists what is in dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteFileReplacesContentAndMode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	for i, content := range []string{"first", "", "a longer third content"} {
		perm := []fs.FileMode{0o600, 0o666, 0o444}[i]
		if err := WriteFile(path, []byte(content), perm); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != content {
			t.Errorf("write %d: content %q, want %q", i, got, content)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != perm {
			t.Errorf("write %d: mode %v, want %v", i, info.Mode(), perm)
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("directory holds %v, want only the file", got)
	}
}

func TestWriteFileKeepsAnOpenOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := old.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	if string(buf) != "old" {
		t.Errorf("a reader of the old file now sees %q: it was written in place", buf)
	}
}

func TestWriteFileFailureNamesPathAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	// A directory in the place of the file lets everything succeed but the rename.
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := WriteFile(blocked, []byte("x"), 0o600)
	if err == nil || !strings.Contains(err.Error(), blocked) {
		t.Errorf("error %v does not name %s", err, blocked)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("directory holds %v, want only the blocking directory", got)
	}

	missing := filepath.Join(dir, "no", "such", "file")
	err = WriteFile(missing, []byte("x"), 0o600)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v, want one about %s that is fs.ErrNotExist", err, missing)
	}
}

func TestSyncDirOfMissingDirectory(t *testing.T) {
	if err := SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}
