package contract_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/kernel"
	"github.com/faultline-vm/faultline/hypervisor/contract"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

func TestFirecracker(t *testing.T) {
	choice, err := firecracker.Choose(t.Context(), firecracker.Selection{Prefer: firecracker.PreferReal})
	if err != nil {
		t.Skipf("%v", err)
	}
	contract.Run(t, contract.Target{Binary: choice.Binary, Install: installProgram, LinuxBalloon: true})
}

// installProgram emits the workload as a freestanding program.
func installProgram(t *testing.T, dir string, w guest.Workload, memory uint64) (path, bootArgs string) {
	t.Helper()
	program, err := kernel.Build(w, memory, kernel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel"), program, 0o600); err != nil {
		t.Fatal(err)
	}
	return "kernel", w.BootArgs()
}

func TestSimulator(t *testing.T) {
	path := filepath.Join(t.TempDir(), firecracker.Simulator)
	build := exec.Command("go", "build", "-o", path, "github.com/faultline-vm/faultline/cmd/fcsim")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatalf("build fcsim: %v", err)
	}
	binary, err := firecracker.Probe(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	contract.Run(t, contract.Target{Binary: binary, Install: installArguments})
}

// installArguments gives the simulator its workload in the boot arguments; the
// kernel image only has to exist.
func installArguments(t *testing.T, dir string, w guest.Workload, _ uint64) (path, bootArgs string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "kernel"), []byte("any kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "kernel", w.BootArgs()
}
