// Package linux finds a Linux guest that the user names, and reads what it says.
//
// The freestanding program of package guest/kernel needs no drivers and has none;
// what is about virtio devices, a page allocator or page tables wants a real
// kernel. None is shipped: the user gives a kernel and an initramfs.
//
// The package owns no resources and has no state.
package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Environment variables that name a guest.
const (
	// EnvKernel is the path of an uncompressed kernel, as kernel_image_path wants it.
	EnvKernel = "FAULTLINE_LINUX_KERNEL"
	// EnvInitrd is the path of the initramfs, if the kernel of EnvKernel needs one.
	EnvInitrd = "FAULTLINE_LINUX_INITRD"
	// EnvBootArgs replaces [DefaultBootArgs], for a guest found in any way.
	EnvBootArgs = "FAULTLINE_LINUX_BOOT_ARGS"
	// EnvDir is a directory that holds [KernelName] and [InitrdName]. EnvKernel
	// goes before it.
	EnvDir = "FAULTLINE_LINUX_GUEST_DIR"
)

// Names of the files in a guest directory.
const (
	KernelName = "vmlinux"
	InitrdName = "initramfs.cpio"
)

// DefaultBootArgs makes the kernel quiet and its faults synchronous: with
// asynchronous page faults (no-kvmapf is not set) it would schedule at each page
// that a pager has not delivered yet. The guest's program keeps 8 MiB of patterns.
const DefaultBootArgs = "console=ttyS0 reboot=k panic=1 quiet no-kvmapf mib=8"

// Guest is what a VMM needs to boot.
type Guest struct {
	Kernel   string // absolute path
	Initrd   string // absolute path, or "" for a kernel that needs none
	BootArgs string
}

// ErrNotFound says that the user named no Linux guest and none lies where one was
// looked for. A guest that is named and cannot be used is another error.
var ErrNotFound = errors.New("no Linux guest: set " + EnvKernel + " (and " + EnvInitrd + "), or set " +
	EnvDir + " to a directory that holds " + KernelName + " and " + InitrdName)

// Find returns the guest that the environment names, else the first of dirs that
// holds both files of a guest directory, else ErrNotFound. Getenv is os.Getenv,
// or its like.
func Find(getenv func(string) string, dirs ...string) (Guest, error) {
	g, err := find(getenv, dirs)
	if err != nil {
		return Guest{}, err
	}
	g.BootArgs = DefaultBootArgs
	if args := getenv(EnvBootArgs); args != "" {
		g.BootArgs = args
	}
	return g, nil
}

func find(getenv func(string) string, dirs []string) (Guest, error) {
	kernel, initrd, dir := getenv(EnvKernel), getenv(EnvInitrd), getenv(EnvDir)
	switch {
	case kernel != "":
		return named(EnvKernel, kernel, EnvInitrd, initrd)
	case initrd != "":
		return Guest{}, fmt.Errorf("%s is set and %s is not: name the kernel too", EnvInitrd, EnvKernel)
	case dir != "":
		return named(EnvDir, filepath.Join(dir, KernelName), EnvDir, filepath.Join(dir, InitrdName))
	}
	for _, dir := range dirs {
		g, err := named(dir, filepath.Join(dir, KernelName), dir, filepath.Join(dir, InitrdName))
		if err == nil {
			return g, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return Guest{}, err
		}
	}
	return Guest{}, ErrNotFound
}

// named returns a guest of two files; who names them goes into the errors.
func named(whoKernel, kernel, whoInitrd, initrd string) (Guest, error) {
	kernel, err := file(whoKernel, kernel)
	if err != nil {
		return Guest{}, err
	}
	if initrd != "" {
		if initrd, err = file(whoInitrd, initrd); err != nil {
			return Guest{}, err
		}
	}
	return Guest{Kernel: kernel, Initrd: initrd}, nil
}

// file returns the absolute path of a regular file that can be read.
func file(who, path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("linux guest of %s: %w", who, err)
	}
	f, err := os.Open(absolute)
	if err != nil {
		return "", fmt.Errorf("linux guest of %s: %w", who, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("linux guest of %s: %w", who, err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return "", fmt.Errorf("linux guest of %s: %s is not a file with something in it", who, absolute)
	}
	return absolute, nil
}
