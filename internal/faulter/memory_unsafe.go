package faulter

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	smallPage = 4096
	hugePage  = 2 << 20
)

// memory is the child's regions. It is immutable.
type memory []area

type area struct {
	region Region
	bytes  []byte
}

// mapRegions maps each region the way Firecracker does: private, anonymous, not
// reserved, at an address that is a multiple of 2 MiB. Inaccessible memory
// surrounds each, so that the kernel never merges two into one mapping.
func mapRegions(regions []Region) (memory, error) {
	m := make(memory, len(regions))
	for i, r := range regions {
		const noReserve = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
		reserve := uintptr(r.Size) + 3*hugePage
		hole, err := unix.MmapPtr(-1, 0, nil, reserve, unix.PROT_NONE, noReserve)
		if err != nil {
			return nil, fmt.Errorf("reserve %d bytes of addresses: %w", reserve, err)
		}
		// At least one huge page of the hole stays on either side.
		skip := 2*hugePage - uintptr(hole)%hugePage
		flags := noReserve | unix.MAP_FIXED
		if r.PageSize == hugePage {
			flags |= unix.MAP_HUGETLB | unix.MAP_HUGE_2MB
		}
		base, err := unix.MmapPtr(-1, 0, unsafe.Add(hole, skip), uintptr(r.Size), unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			return nil, fmt.Errorf("map region %d, %d bytes in pages of %d: %w", i, r.Size, r.PageSize, err)
		}
		r.Address = uint64(uintptr(base))
		m[i] = area{r, unsafe.Slice((*byte)(base), r.Size)}
	}
	return m, nil
}

func (m memory) regions() []Region {
	regions := make([]Region, len(m))
	for i := range m {
		regions[i] = m[i].region
	}
	return regions
}

// each calls fn with the parts of a range of the memory file, one per region, in
// order. It calls it not at all when a part of the range is beyond the memory.
func (m memory) each(offset, length uint64, fn func(part []byte) error) error {
	last := m[len(m)-1].region
	if size := last.Offset + last.Size; offset > size || length > size-offset {
		return fmt.Errorf("%d bytes at offset %#x are beyond the memory of %d bytes", length, offset, size)
	}
	for i := range m {
		if length == 0 {
			return nil
		}
		r := m[i].region
		if offset < r.Offset || offset-r.Offset >= r.Size {
			continue
		}
		begin := offset - r.Offset
		n := min(length, r.Size-begin)
		if err := fn(m[i].bytes[begin : begin+n]); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// eachPage is each with parts that do not cross pages of 4 KiB: a copy of many
// pages may begin with the last one, and tests rely on faults in order.
func (m memory) eachPage(offset, length uint64, fn func(part []byte) error) error {
	return m.each(offset, length, func(part []byte) error {
		for len(part) > 0 {
			n := smallPage - uintptr(unsafe.Pointer(&part[0]))%smallPage
			n = min(n, uintptr(len(part)))
			if err := fn(part[:n]); err != nil {
				return err
			}
			part = part[n:]
		}
		return nil
	})
}

// word returns the eight bytes at an offset of the memory file.
func (m memory) word(offset uint64) (*uint64, error) {
	if offset%8 != 0 {
		return nil, fmt.Errorf("offset %#x is not a multiple of 8", offset)
	}
	var word *uint64
	err := m.each(offset, 8, func(part []byte) error {
		word = (*uint64)(unsafe.Pointer(&part[0]))
		return nil
	})
	return word, err
}

// discard gives memory back to the kernel.
func discard(part []byte) error {
	if err := unix.Madvise(part, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	return nil
}

// loadWord and storeWord are one plain access each. They are not inlined, so that
// the compiler keeps a load whose value nobody needs, and not instrumented: the
// race detector would have a store preceded by a load, and the fault be a read.
//
//go:noinline
//go:norace
func loadWord(word *uint64) uint64 { return *word }

//go:noinline
//go:norace
func storeWord(word *uint64, value uint64) { *word = value }
