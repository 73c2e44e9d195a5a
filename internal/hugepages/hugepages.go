// Package hugepages lets a test have 2 MiB huge pages for as long as it runs.
//
// The pool belongs to the whole host and tests of several processes change it at
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
	"testing"

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

// Reserve enlarges the host's pool by pages huge pages until the test ends. It
// skips the test where that is not possible. A test binary that is killed leaves
// the pool enlarged.
func Reserve(t testing.TB, pages int) {
	t.Helper()
	switch err := resize(pages); {
	case errors.Is(err, fs.ErrNotExist):
		t.Skip("kernel has no 2 MiB huge pages; use a kernel with CONFIG_HUGETLBFS")
	case errors.Is(err, fs.ErrPermission):
		t.Skip("no permission to enlarge the huge page pool; run as root")
	case errors.Is(err, errShort):
		t.Skipf("cannot have %d huge pages: %v; free memory, or reserve them at boot", pages, err)
	case err != nil:
		t.Fatalf("enlarge the huge page pool: %v", err)
	}
	t.Cleanup(func() {
		if err := resize(-pages); err != nil {
			t.Errorf("shrink the huge page pool by %d: %v", pages, err)
		}
	})
}

// Free returns the number of pages of the pool that nobody uses.
func Free(t testing.TB) int {
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
