package fcsim

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapRegion maps size bytes, a multiple of page, at an address that is a
// multiple of 2 MiB: anonymous memory, or file from offset on, privately.
func mapRegion(size, page uint64, file *os.File, offset uint64) ([]byte, error) {
	reserved, err := unix.MmapPtr(-1, 0, nil, uintptr(size+hugePageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	lead := -uintptr(reserved) % hugePageSize
	aligned := unsafe.Add(reserved, lead)

	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_NORESERVE|unix.MAP_FIXED
	switch {
	case file != nil:
		fd = int(file.Fd())
	case page == hugePageSize:
		flags |= unix.MAP_ANONYMOUS | unix.MAP_HUGETLB | unix.MAP_HUGE_2MB
	default:
		flags |= unix.MAP_ANONYMOUS
	}
	_, err = unix.MmapPtr(fd, int64(offset), aligned, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		err = fmt.Errorf("map %d MiB of guest memory: %w", size>>20, err)
		return nil, errors.Join(err, unix.MunmapPtr(reserved, uintptr(size+hugePageSize)))
	}
	if lead > 0 {
		err = unix.MunmapPtr(reserved, lead)
	}
	if tail := hugePageSize - lead; tail > 0 && err == nil {
		err = unix.MunmapPtr(unsafe.Add(aligned, size), tail)
	}
	return unsafe.Slice((*byte)(aligned), size), err
}

func unmapRegion(bytes []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(bytes)), uintptr(len(bytes)))
}

// address is the host virtual address of a region, which a pager gets to know.
func (r *region) address() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.bytes)))) }

func (m *memory) contains(address uintptr) bool {
	for i := range m.regions {
		if uint64(address)-m.regions[i].address() < m.regions[i].Size {
			return true
		}
	}
	return false
}

// discard drops part's pages, so that they read as zeros. On memory under a
// userfaultfd the call lasts until its reader has taken the REMOVE event. Dropping
// private pages of a file would bring the file's content back, so there an
// anonymous mapping replaces them. Part of a huge page is not dropped: the kernel
// rounds such a range down or refuses it.
func (m *memory) discard(part []byte) error {
	start := unsafe.Pointer(unsafe.SliceData(part))
	if m.backing == fileBacked {
		_, err := unix.MmapPtr(-1, 0, start, uintptr(len(part)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
		return err
	}
	return unix.Madvise(part, unix.MADV_DONTNEED)
}

// resident tells, for each page of part, in bit 0 of vec's byte, whether it is
// in memory: mincore(2), with its granularity of 4 KiB.
func resident(part, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(part))), uintptr(len(part)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return errno
	}
	return nil
}
