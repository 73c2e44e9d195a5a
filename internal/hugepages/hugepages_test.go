package hugepages_test

import (
	"testing"

	"github.com/faultline-vm/faultline/internal/hugepages"
	"golang.org/x/sys/unix"
)

// TestReserve uses the pages that it reserved. A mapping without MAP_NORESERVE
// fails where the pool is too small.
func TestReserve(t *testing.T) {
	const pages = 2
	hugepages.Reserve(t, pages)
	memory, err := unix.Mmap(-1, 0, pages*hugepages.Size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|unix.MAP_POPULATE)
	if err != nil {
		t.Fatalf("map %d reserved huge pages: %v", pages, err)
	}
	if err := unix.Munmap(memory); err != nil {
		t.Fatal(err)
	}
}
