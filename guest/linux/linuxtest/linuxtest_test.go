package linuxtest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/faultline-vm/faultline/guest/linux"
)

// fake makes a module beside a shared/guest directory and enters it.
func fake(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range map[string]string{
		"shared/guest/vmlinux": "x", "shared/guest/initramfs.cpio": "x", "module/go.mod": "module m\n", "module/pkg/deep/x.go": "package deep\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(root, "module/pkg/deep"))
	for _, name := range []string{linux.EnvKernel, linux.EnvInitrd, linux.EnvBootArgs, linux.EnvDir} {
		t.Setenv(name, "")
	}
	return root
}

func TestRequireFindsTheGuestBesideTheCheckout(t *testing.T) {
	root := fake(t)
	want, err := filepath.EvalSymlinks(filepath.Join(root, "shared/guest/vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := filepath.EvalSymlinks(Require(t).Kernel)
	if err != nil || got != want {
		t.Errorf("kernel %s (%v), want %s", got, err, want)
	}
}

// recorder is a test that notes that it was skipped, without being counted as one.
type recorder struct {
	testing.TB
	skipped bool
}

func (r *recorder) Skip(...any) {
	r.skipped = true
	runtime.Goexit()
}

func TestRequireSkipsWithoutAGuest(t *testing.T) {
	root := fake(t)
	if err := os.Remove(filepath.Join(root, "shared/guest/vmlinux")); err != nil {
		t.Fatal(err)
	}
	r, done := &recorder{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		Require(r)
	}()
	if <-done; !r.skipped {
		t.Error("not skipped")
	}
}
