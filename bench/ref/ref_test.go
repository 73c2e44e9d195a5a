package ref

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestMain(m *testing.M) {
	faulter.Main()
	os.Exit(m.Run())
}

func build(t *testing.T) (Programs, string) {
	t.Helper()
	dir := shortdir.Make(t)
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
	handler, err := h.StartHandler(socket, memory)
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

// TestVMM lets the VMM in C be served by the handler in C, and by this program.
func TestVMM(t *testing.T) {
	built, dir := build(t)
	content := bytes.Repeat([]byte("reference "), 8*4096/10+1)[:8*4096]
	memory, socket := filepath.Join(dir, "memory"), filepath.Join(dir, "s")
	if err := os.WriteFile(memory, content, 0o600); err != nil {
		t.Fatal(err)
	}
	handler, err := built.StartHandler(socket, memory)
	if err != nil {
		t.Fatal(err)
	}
	vmm, err := built.StartVMM(uint64(len(content)))
	if err != nil {
		handler.Kill()
		if strings.Contains(err.Error(), "userfaultfd: ") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	fd, err := vmm.TakeFD(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := fd.Copy(vmm.Base()+4096, bytes.Repeat([]byte{7}, 4096), 0).Err(); err != nil {
		t.Fatal(err)
	}
	copy(content[4096:], bytes.Repeat([]byte{7}, 4096))
	if err := vmm.Handshake(socket); err != nil {
		t.Fatal(err)
	}
	times, err := vmm.Touch([]uint64{5 * 4096, 4096, 0})
	if err != nil || len(times) != 3 || slices.Min(times) <= 0 {
		t.Errorf("three loads took %v, %v", times, err)
	}
	if sum, err := vmm.Sum(); err != nil || sum != sha256.Sum256(content) {
		t.Errorf("the memory is not what the handlers gave, %v", err)
	}
	if _, err := vmm.Touch([]uint64{8 * 4096}); err == nil || !strings.Contains(err.Error(), "beyond the memory") {
		t.Errorf("a load beyond the memory: %v", err)
	}
	if err := errors.Join(vmm.Kill(), fd.Close(), handler.Kill()); err != nil {
		t.Error(err)
	}
}

func TestComplains(t *testing.T) {
	h, dir := build(t)
	_, err := h.StartHandler(filepath.Join(dir, "s"), filepath.Join(dir, "none"))
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
