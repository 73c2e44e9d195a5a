// Package linuxtest gives tests the Linux guest that package linux finds, or
// skips them.
package linuxtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/guest/linux"
)

// Require returns the guest that the environment names, else the one in
// ../shared/guest beside the checkout, and skips the test where there is neither.
// A guest that is named and unusable fails the test.
func Require(t testing.TB) linux.Guest {
	t.Helper()
	g, err := linux.Find(os.Getenv, besideCheckout(t))
	if errors.Is(err, linux.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// besideCheckout returns the directory shared/guest beside the module's root,
// which is the nearest directory above the test's that holds a go.mod.
func besideCheckout(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return filepath.Join(filepath.Dir(dir), "shared", "guest")
}
