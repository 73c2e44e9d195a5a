package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// guestDir makes a directory that holds the given files.
func guestDir(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	whole, half, own := guestDir(t, KernelName, InitrdName), guestDir(t, KernelName), guestDir(t, "k", "i")
	k, i := filepath.Join(own, "k"), filepath.Join(own, "i")
	inWhole := Guest{filepath.Join(whole, KernelName), filepath.Join(whole, InitrdName), DefaultBootArgs}
	for _, c := range []struct {
		name string
		env  map[string]string
		dirs []string
		want Guest
	}{
		{"kernel alone", map[string]string{EnvKernel: k}, nil, Guest{k, "", DefaultBootArgs}},
		{"kernel and initrd", map[string]string{EnvKernel: k, EnvInitrd: i}, nil, Guest{k, i, DefaultBootArgs}},
		{"kernel before directory", map[string]string{EnvKernel: k, EnvDir: whole}, []string{whole}, Guest{k, "", DefaultBootArgs}},
		{"directory", map[string]string{EnvDir: whole}, nil, inWhole},
		{"boot arguments", map[string]string{EnvDir: whole, EnvBootArgs: "mib=1"}, nil, Guest{inWhole.Kernel, inWhole.Initrd, "mib=1"}},
		{"first whole directory", nil, []string{half, whole}, inWhole},
	} {
		got, err := Find(func(name string) string { return c.env[name] }, c.dirs...)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}

func TestFindFails(t *testing.T) {
	half, empty := guestDir(t, KernelName), t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "none"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		env   map[string]string
		dirs  []string
		found bool   // whether the error is another one than ErrNotFound
		want  string // in the error
	}{
		{"nothing", nil, nil, false, EnvKernel},
		{"no whole directory", nil, []string{half, empty, filepath.Join(half, "gone")}, false, EnvDir},
		{"boot arguments alone", map[string]string{EnvBootArgs: "x"}, nil, false, "set"},
		{"no such kernel", map[string]string{EnvKernel: filepath.Join(half, "gone")}, nil, true, EnvKernel},
		{"no such initrd", map[string]string{EnvKernel: filepath.Join(half, KernelName), EnvInitrd: filepath.Join(half, "gone")}, nil, true, EnvInitrd},
		{"initrd alone", map[string]string{EnvInitrd: filepath.Join(half, KernelName)}, nil, true, "name the kernel too"},
		{"directory without initrd", map[string]string{EnvDir: half}, []string{half}, true, InitrdName},
		{"a directory as kernel", map[string]string{EnvKernel: half}, nil, true, "not a file"},
		{"an empty kernel", map[string]string{EnvKernel: filepath.Join(empty, "none")}, nil, true, "not a file with something in it"},
	} {
		g, err := Find(func(name string) string { return c.env[name] }, c.dirs...)
		if err == nil || errors.Is(err, ErrNotFound) == c.found || !strings.Contains(err.Error(), c.want) || g != (Guest{}) {
			t.Errorf("%s: %v %v, want %q", c.name, g, err, c.want)
		}
	}
}
