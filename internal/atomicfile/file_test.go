package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// begin makes a file for path that holds content.
func begin(t *testing.T, path, content string) *File {
	t.Helper()
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPublishTakesOnlyAFreePath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := begin(t, path, "first").Publish(0o444); err != nil {
		t.Fatal(err)
	}
	err := begin(t, path, "second").Publish(0o600)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "first" {
		t.Errorf("path holds %q, %v; want the first content", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
		t.Errorf("mode %v, %v; want 0444", info.Mode(), err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("directory holds %v, want only the file", got)
	}
}

func TestUnfinishedFileIsTemporary(t *testing.T) {
	dir := t.TempDir()
	f := begin(t, filepath.Join(dir, "layer.mem"), "half")
	if got := names(t, dir); len(got) != 1 || !IsTemporary(got[0]) {
		t.Errorf("directory holds %v, want one temporary name", got)
	}
	for range 2 {
		if err := f.Discard(); err != nil {
			t.Errorf("discard: %v", err)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("directory holds %v after Discard", got)
	}
}

func TestDiscardAfterPublishKeepsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := begin(t, path, "x")
	if err := f.Publish(0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Discard(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestIsTemporary(t *testing.T) {
	for name, want := range map[string]bool{
		".memory.json.tmp-123": true, "memory.json": false, ".hidden": false, "a.tmp-1": false,
	} {
		if got := IsTemporary(name); got != want {
			t.Errorf("%s is temporary: %v", name, got)
		}
	}
}
