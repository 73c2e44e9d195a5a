package ref

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
)

func TestMain(m *testing.M) {
	faulter.Main()
	os.Exit(m.Run())
}

func build(t *testing.T) (Handler, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := Build(t.Context(), dir)
	if errors.Is(err, ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h, dir
}

func TestServes(t *testing.T) {
	h, dir := build(t)
	if h.Compiler == "" {
		t.Error("the compiler is not named")
	}
	content := bytes.Repeat([]byte("reference "), 8*4096/10+1)[:8*4096]
	memory, socket := filepath.Join(dir, "memory"), filepath.Join(dir, "s")
	if err := os.WriteFile(memory, content, 0o600); err != nil {
		t.Fatal(err)
	}
	handler, err := h.Start(socket, memory)
	if err != nil {
		t.Fatal(err)
	}
	process, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: uint64(len(content))}}})
	if errors.Is(err, faulter.ErrRefused) {
		handler.Kill()
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Handshake(socket); err != nil {
		t.Fatal(err)
	}
	got, err := process.Read(0, uint64(len(content)))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the memory is not the file's, %v", err)
	}
	if err := errors.Join(process.Kill(), handler.Kill()); err != nil {
		t.Error(err)
	}
}

func TestComplains(t *testing.T) {
	h, dir := build(t)
	_, err := h.Start(filepath.Join(dir, "s"), filepath.Join(dir, "none"))
	if err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestNoCompiler(t *testing.T) {
	t.Setenv("CC", "no-such-compiler")
	if _, err := Build(t.Context(), t.TempDir()); !errors.Is(err, ErrNoCompiler) {
		t.Errorf("error %v", err)
	}
}
