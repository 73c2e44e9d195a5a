package uffd

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestDiagnose(t *testing.T) {
	for name, c := range map[string]struct {
		circumstances circumstances
		want          []Permission
	}{
		"ordinary user": {
			circumstances{device: unix.EACCES, syscall: unix.EPERM},
			[]Permission{DeviceFile, CapSysPtrace, UnprivilegedSysctl},
		},
		"ordinary user, no device": {
			circumstances{device: unix.ENOENT, syscall: unix.EPERM},
			[]Permission{CapSysPtrace, UnprivilegedSysctl},
		},
		"container's filter answers EPERM to root": {
			circumstances{device: unix.ENOENT, syscall: unix.EPERM, process: process{ptrace: true, filtered: true}},
			[]Permission{SyscallFilter},
		},
		"container's filter answers EPERM although everybody may": {
			circumstances{device: unix.EACCES, syscall: unix.EPERM, process: process{unlimited: true, filtered: true}},
			[]Permission{DeviceFile, SyscallFilter},
		},
		"container's filter forbids even user mode": {
			circumstances{userModeOnly: true, device: unix.ENOENT, syscall: unix.EPERM, process: process{filtered: true}},
			[]Permission{SyscallFilter},
		},
		"filter answers ENOSYS": {
			circumstances{device: unix.ENOENT, syscall: unix.ENOSYS, process: process{filtered: true}},
			[]Permission{SyscallFilter},
		},
		"kernel without userfaultfd": {
			circumstances{device: unix.ENOENT, syscall: unix.ENOSYS},
			[]Permission{KernelConfig},
		},
	} {
		err := diagnose(c.circumstances)
		if diff := cmp.Diff(c.want, err.Missing); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, p := range c.want {
			if !strings.Contains(err.Error(), string(p)) || !strings.Contains(err.Error(), remedies[p]) {
				t.Errorf("%s: error %q lacks %s or its remedy", name, err, p)
			}
		}
		if !errors.Is(err, c.circumstances.syscall) {
			t.Errorf("%s: error does not wrap %v", name, c.circumstances.syscall)
		}
	}
}

func TestExplainGetfd(t *testing.T) {
	for name, c := range map[string]struct {
		err  unix.Errno
		self process
		want string
	}{
		"stranger":     {unix.EPERM, process{}, "CAP_SYS_PTRACE"},
		"yama":         {unix.EPERM, process{}, "kernel.yama.ptrace_scope=0"},
		"filter":       {unix.EPERM, process{ptrace: true, filtered: true}, "seccomp"},
		"other filter": {unix.ENOSYS, process{filtered: true}, "seccomp"},
		"old kernel":   {unix.ENOSYS, process{}, "5.6"},
	} {
		if got := explainGetfd(c.err, c.self).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q lacks %q", name, got, c.want)
		}
	}
}
