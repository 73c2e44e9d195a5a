// Package hugepages lets a test, or a program that tests, have 2 MiB huge pages for
// as long as it runs.
//
// The pool belongs to the whole host and several processes change it at
// the same time. Each change is therefore relative to the present size and made
// under the file lock [lockPath], which is held for the change alone.
package hugepages

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Size is the size of a page of the pool in bytes.
const Size = 2 << 20

const (
	poolDir  = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	poolPath = poolDir + "nr_hugepages"
	freePath = poolDir + "free_hugepages"
	lockPath = "/tmp/faultline-hugepages.lock"
)

// errShort says that the host has too little contiguous memory.
var errShort = errors.New("too little contiguous free memory")

// ErrUnavailable is wrapped by the error of [Grow] where this host, or this user,
// cannot have the pages; the text names the remedy.
var ErrUnavailable = errors.New("no huge pages of 2 MiB")

// Grow enlarges the host's pool by pages huge pages. Whoever calls it calls shrink
// once, when nothing uses them any more. A process that is killed leaves the pool
// enlarged.
func Grow(pages int) (shrink func() error, err error) {
	switch err := resize(pages); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: the kernel has none; use a kernel with CONFIG_HUGETLBFS", ErrUnavailable)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: no permission to enlarge the host's pool; run as root", ErrUnavailable)
	case errors.Is(err, errShort):
		return nil, fmt.Errorf("%w: cannot have %d: %w; free memory, or reserve them at boot", ErrUnavailable, pages, err)
	case err != nil:
		return nil, fmt.Errorf("enlarge the huge page pool: %w", err)
	}
	return func() error {
		if err := resize(-pages); err != nil {
			return fmt.Errorf("shrink the huge page pool by %d: %w", pages, err)
		}
		return nil
	}, nil
}

// Test is what this package needs of a *testing.T. Programs that are no tests do not
// link package testing by importing this one.
type Test interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
	Error(args ...any)
	Cleanup(func())
}

// Reserve enlarges the host's pool by pages huge pages until the test ends. It
// skips the test where that is not possible.
func Reserve(t Test, pages int) {
	t.Helper()
	shrink, err := Grow(pages)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shrink(); err != nil {
			t.Error(err)
		}
	})
}

// Free returns the number of pages of the pool that nobody uses.
func Free(t Test) int {
	t.Helper()
	n, err := readCount(freePath)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("kernel has no 2 MiB huge pages; use a kernel with CONFIG_HUGETLBFS")
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// resize changes the size of the pool by change, or leaves it as it was.
func resize(change int) (err error) {
	// The kernel accepts a write by root alone; the lock file must not be
	// created by anybody else, who could then not share it.
	pool, err := os.OpenFile(poolPath, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	lock, err := os.OpenFile(lockPath, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of the huge page pool: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }() // which unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lockPath, err)
	}
	before, err := readCount(poolPath)
	if err != nil {
		return err
	}
	want := max(before+change, 0)
	if _, err := pool.WriteString(strconv.Itoa(want)); err != nil {
		return fmt.Errorf("set %s to %d: %w", poolPath, want, err)
	}
	got, err := readCount(poolPath)
	if err != nil {
		return err
	}
	if change > 0 && got < want {
		if _, err := pool.WriteString(strconv.Itoa(before)); err != nil {
			return fmt.Errorf("set %s back to %d: %w", poolPath, before, err)
		}
		return fmt.Errorf("%w: the pool grew to %d pages instead of %d", errShort, got, want)
	}
	return nil
}

func readCount(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}
