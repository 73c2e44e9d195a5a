package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/memimage"
)

// memoryFile makes a memory file of pages that hold their number, from 0.
func memoryFile(t *testing.T, pages int) string {
	t.Helper()
	var data []byte
	for p := range pages {
		data = append(data, bytes.Repeat([]byte{byte(p)}, memimage.PageSize)...)
	}
	path := filepath.Join(t.TempDir(), "memory")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageOfAFile(t *testing.T) {
	memory := memoryFile(t, 8)
	dir := filepath.Join(t.TempDir(), "image")
	back := filepath.Join(t.TempDir(), "back")
	for _, args := range [][]string{
		{"import", "--memory", memory, "--to", dir}, {"ls", dir}, {"ls", dir, "--json"}, {"inspect", dir},
		{"inspect", filepath.Join(dir, memimage.ManifestName), "--json"}, {"verify", dir}, {"verify", dir, "--json"},
		{"flatten", dir}, {"flatten", dir, "--json"}, {"export", dir, back},
	} {
		code, out, stderr := faultline(append([]string{"image"}, args...)...)
		if code != exitOK || out == "" || stderr != "" {
			t.Errorf("%q: code %d, output %q, errors %q", args, code, out, stderr)
		}
	}
	want, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was exported is not what was imported: %v", err)
	}
}

func TestImageErrors(t *testing.T) {
	empty := t.TempDir()
	memory := memoryFile(t, 1)
	for name, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no image":             {[]string{"inspect", empty}, exitFailed, memimage.ManifestName},
		"nothing there":        {[]string{"verify", filepath.Join(empty, "none")}, exitFailed, "none"},
		"no data directory":    {[]string{"ls", "--data-dir", filepath.Join(empty, "none")}, exitFailed, "--data-dir"},
		"an image listed":      {[]string{"ls", empty}, exitFailed, memimage.ManifestName},
		"import of no file":    {[]string{"import", "--memory", filepath.Join(empty, "none"), "--to", empty}, exitUsage, "--memory"},
		"no parent directory":  {[]string{"import", "--memory", memory, "--to", filepath.Join(empty, "a", "b")}, exitFailed, "directory"},
		"prune what is kept":   {[]string{"flatten", empty, "--to", filepath.Join(empty, "x"), "--prune"}, exitUsage, "--prune"},
		"export over a file":   {[]string{"export", importedImage(t), memory}, exitFailed, "exist"},
		"import over an image": {[]string{"import", "--memory", memory, "--to", importedImage(t)}, exitFailed, "exists"},
	} {
		code, out, stderr := faultline(append([]string{"image"}, test.args...)...)
		if code != test.code || !strings.Contains(stderr, test.says) {
			t.Errorf("%s: code %d, output %q, errors %q", name, code, out, stderr)
		}
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func importedImage(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	if code, _, stderr := faultline("image", "import", "--memory", memoryFile(t, 2), "--to", dir); code != exitOK {
		t.Fatal(stderr)
	}
	return dir
}
