package hypervisor_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
)

func TestBootSpecValidate(t *testing.T) {
	good := func() hypervisor.BootSpec {
		return hypervisor.BootSpec{
			Process: hypervisor.Process{Dir: "d"}, Kernel: "k", VCPUs: 1, MemoryMiB: 64, HugePages: hypervisor.Huge2M,
			Vsock: &hypervisor.Vsock{GuestCID: 3, Path: "v"}, Balloon: &hypervisor.Balloon{TargetMiB: 64},
		}
	}
	if err := good().Validate(); err != nil {
		t.Errorf("a good specification: %v", err)
	}
	for want, spoil := range map[string]func(*hypervisor.BootSpec){
		"no directory":      func(s *hypervisor.BootSpec) { s.Dir = "" },
		"no kernel":         func(s *hypervisor.BootSpec) { s.Kernel = "" },
		"33 vCPUs":          func(s *hypervisor.BootSpec) { s.VCPUs = 33 },
		"0 vCPUs":           func(s *hypervisor.BootSpec) { s.VCPUs = 0 },
		"0 MiB of memory":   func(s *hypervisor.BootSpec) { s.MemoryMiB = 0 },
		"whole number":      func(s *hypervisor.BootSpec) { s.MemoryMiB = 65 },
		`huge pages "1G"`:   func(s *hypervisor.BootSpec) { s.HugePages = "1G" },
		"reserved":          func(s *hypervisor.BootSpec) { s.Vsock.GuestCID = 2 },
		"107 bytes":         func(s *hypervisor.BootSpec) { s.Vsock.Path = strings.Repeat("v", 108) },
		"balloon of 65 MiB": func(s *hypervisor.BootSpec) { s.Balloon.TargetMiB = 65 },
	} {
		spec := good()
		spoil(&spec)
		if err := spec.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestRestoreSpecValidate(t *testing.T) {
	good := hypervisor.RestoreSpec{
		Process: hypervisor.Process{Dir: "d"}, StatePath: "s",
		Memory: hypervisor.Memory{Backend: hypervisor.Uffd, Path: strings.Repeat("p", 107)},
	}
	if err := good.Validate(); err != nil {
		t.Errorf("a good specification: %v", err)
	}
	for want, spoil := range map[string]func(*hypervisor.RestoreSpec){
		"no directory":   func(s *hypervisor.RestoreSpec) { s.Dir = "" },
		"no VM state":    func(s *hypervisor.RestoreSpec) { s.StatePath = "" },
		"107 bytes":      func(s *hypervisor.RestoreSpec) { s.Memory.Path += "p" },
		`backend "Tape"`: func(s *hypervisor.RestoreSpec) { s.Memory.Backend = "Tape" },
		"no path":        func(s *hypervisor.RestoreSpec) { s.Memory.Path = "" },
		"vsock path":     func(s *hypervisor.RestoreSpec) { s.VsockOverride = strings.Repeat("v", 108) },
	} {
		spec := good
		spoil(&spec)
		if err := spec.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	long := good
	long.Memory = hypervisor.Memory{Backend: hypervisor.File, Path: strings.Repeat("p", 300)}
	if err := long.Validate(); err != nil {
		t.Errorf("a memory file may have a long path: %v", err)
	}
}

func TestSnapshotSpecValidate(t *testing.T) {
	good := hypervisor.SnapshotSpec{Kind: hypervisor.Diff, StatePath: "s", MemoryPath: "m"}
	if err := good.Validate(); err != nil {
		t.Errorf("a good specification: %v", err)
	}
	for _, bad := range []hypervisor.SnapshotSpec{
		{Kind: "Half", StatePath: "s", MemoryPath: "m"},
		{Kind: hypervisor.Full, MemoryPath: "m"},
		{Kind: hypervisor.Full, StatePath: "s"},
	} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestExitStateString(t *testing.T) {
	for want, state := range map[string]hypervisor.ExitState{
		"exit status unknown":     {},
		"exit code 149":           {Known: true, Code: 149},
		"killed by signal killed": {Known: true, Signal: syscall.SIGKILL},
	} {
		if got := state.String(); got != want {
			t.Errorf("%+v: %q, want %q", state, got, want)
		}
	}
}
