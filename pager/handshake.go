package pager

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sort"
)

// Limits of the handshake. Firecracker sends about 105 bytes a region and has at
// most four regions; the limits leave room and keep a hostile peer small.
const (
	maxHandshakeBytes = 64 << 10
	maxRegions        = 64
)

// Page sizes that can back a guest.
const (
	pageSize4K = 4 << 10
	pageSize2M = 2 << 20
)

// region is one contiguous piece of guest memory in the VMM's address space.
type region struct {
	start  uint64 // address in the VMM
	size   uint64 // bytes
	offset uint64 // of its first byte in the memory image
}

// mapping is what the handshake tells: where guest memory lies in the VMM's
// address space, and which part of the image belongs there. Immutable.
type mapping struct {
	pageSize uint64
	regions  []region // by start, not overlapping
}

// errIncomplete says that the JSON read so far is the beginning of a handshake.
var errIncomplete = errors.New("the handshake's JSON is incomplete")

// wireRegion is one element of the JSON array that Firecracker sends. Versions
// before 1.12 know page_size_kib only, which holds bytes in spite of its name;
// versions before 1.7 know neither. Unknown fields are ignored, since newer
// versions may add some.
type wireRegion struct {
	Address     *uint64 `json:"base_host_virt_addr"`
	Size        *uint64 `json:"size"`
	Offset      *uint64 `json:"offset"`
	PageSize    *uint64 `json:"page_size"`
	PageSizeKiB *uint64 `json:"page_size_kib"`
}

// pageSize returns the element's page size in bytes.
func (w *wireRegion) pageSize() uint64 {
	switch {
	case w.PageSize != nil:
		return *w.PageSize
	case w.PageSizeKiB != nil:
		return *w.PageSizeKiB
	}
	return pageSize4K
}

// parseHandshake reads the handshake's JSON array: it has no length prefix and no
// terminator, so a prefix of it gives errIncomplete and the caller reads on.
func parseHandshake(payload []byte) (*mapping, error) {
	var elements []wireRegion
	d := json.NewDecoder(bytes.NewReader(payload))
	switch err := d.Decode(&elements); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errIncomplete
	case err != nil:
		return nil, fmt.Errorf("the handshake is not the JSON array that Firecracker sends: %w", err)
	}
	if rest := bytes.TrimSpace(payload[d.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("the handshake goes on with %d bytes behind its JSON array", len(rest))
	}
	return newMapping(elements)
}

func newMapping(elements []wireRegion) (*mapping, error) {
	switch n := len(elements); {
	case n == 0:
		return nil, errors.New("the handshake names no memory region")
	case n > maxRegions:
		return nil, fmt.Errorf("the handshake names %d memory regions, more than %d", n, maxRegions)
	}
	m := &mapping{pageSize: elements[0].pageSize()}
	for i := range elements {
		e := &elements[i]
		if e.Address == nil || e.Size == nil || e.Offset == nil {
			return nil, fmt.Errorf("memory region %d lacks base_host_virt_addr, size or offset", i)
		}
		if e.pageSize() != m.pageSize {
			return nil, fmt.Errorf("memory regions 0 and %d have different page sizes, %d and %d", i, m.pageSize, e.pageSize())
		}
		r := region{start: *e.Address, size: *e.Size, offset: *e.Offset}
		if err := r.check(m.pageSize); err != nil {
			return nil, fmt.Errorf("memory region %d: %w", i, err)
		}
		m.regions = append(m.regions, r)
	}
	if err := m.checkOverlap(func(r region) uint64 { return r.offset }, "in the memory image"); err != nil {
		return nil, err
	}
	// The last sort is by address and stays: find searches by it.
	if err := m.checkOverlap(func(r region) uint64 { return r.start }, "in the VMM's address space"); err != nil {
		return nil, err
	}
	return m, nil
}

func (r region) check(pageSize uint64) error {
	if bits.OnesCount64(pageSize) != 1 {
		return fmt.Errorf("page size %d is not a power of two", pageSize)
	}
	if pageSize != pageSize4K && pageSize != pageSize2M {
		return fmt.Errorf("page size %d is not supported, only %d and %d are", pageSize, pageSize4K, pageSize2M)
	}
	if r.size == 0 {
		return errors.New("its size is 0")
	}
	if (r.start|r.size|r.offset)%pageSize != 0 {
		return fmt.Errorf("address %#x, size %d and offset %d are not all multiples of the page size %d", r.start, r.size, r.offset, pageSize)
	}
	if r.start+r.size < r.start || r.offset+r.size < r.offset {
		return fmt.Errorf("address %#x or offset %d plus size %d overflows", r.start, r.offset, r.size)
	}
	return nil
}

// checkOverlap sorts the regions by key and fails if two share a byte of it.
func (m *mapping) checkOverlap(key func(region) uint64, where string) error {
	sort.Slice(m.regions, func(i, j int) bool { return key(m.regions[i]) < key(m.regions[j]) })
	for i := 1; i < len(m.regions); i++ {
		a, b := m.regions[i-1], m.regions[i]
		if key(a)+a.size > key(b) {
			return fmt.Errorf("memory regions at %#x and %#x overlap %s", a.start, b.start, where)
		}
	}
	return nil
}

// size returns the bytes of guest memory.
func (m *mapping) size() (n uint64) {
	for _, r := range m.regions {
		n += r.size
	}
	return n
}

// end returns the offset behind the last byte of the image that the guest needs.
func (m *mapping) end() (n uint64) {
	for _, r := range m.regions {
		n = max(n, r.offset+r.size)
	}
	return n
}

// find returns the region that holds address, and false if none does. There are
// at most a handful, so it looks at them in turn.
func (m *mapping) find(address uint64) (region, bool) {
	for _, r := range m.regions {
		if address-r.start < r.size {
			return r, true
		}
	}
	return region{}, false
}
