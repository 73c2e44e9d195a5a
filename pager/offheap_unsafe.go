package pager

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offHeap returns n zeroed values of a pointer-free type in an anonymous mapping
// of their own. The collector does not know them, the host gives memory only for
// what is touched, and their address never changes, which UFFDIO_COPY needs of its
// source. freeOffHeap gives them back.
func offHeap[T any](n int) ([]T, error) {
	var zero T
	size := n * int(unsafe.Sizeof(zero))
	if size == 0 {
		return nil, nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserving %d bytes of address space (a limit on virtual memory, ulimit -v, must be larger): %w", size, err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

// freeOffHeap unmaps what offHeap returned. The slice must not be used again.
func freeOffHeap[T any](s []T) {
	if len(s) == 0 {
		return
	}
	size := len(s) * int(unsafe.Sizeof(s[0]))
	// Unmapping a mapping of ours by its own length cannot fail.
	_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(s)), uintptr(size))
}

// viewOf returns b as values of a pointer-free type, as many as fit. b is mapped
// memory, so it is aligned for any of them.
func viewOf[T any](b []byte) []T {
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(zero)))
}
