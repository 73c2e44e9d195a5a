package fcsim

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/faultline-vm/faultline/guest"
)

// backing says what stands behind guest memory.
type backing int

const (
	anonymous  backing = iota // booted, or huge pages
	fileBacked                // a memory file, mapped privately
	lazy                      // anonymous and registered with a userfaultfd
)

// Page sizes of guest memory in bytes.
const (
	pageSize     = guest.PageSize
	hugePageSize = 2 << 20
)

// memory is the guest's RAM: real mappings of this process. An offset counts
// bytes of RAM in the order of its spans, as in a memory file; a guest-physical
// address below 3 GiB is its own offset.
//
// It is owned by the machine. Pages may be read and written by vCPUs at once as
// long as they differ; mapping, discarding and dumping need machine.mu.
type memory struct {
	regions []region
	size    uint64
	// page is the size of the pages that back it: pageSize or hugePageSize.
	page    uint64
	backing backing
	// dirty holds the pages written since the last snapshot, in units of
	// pageSize, as KVM's dirty log has them; nil when not tracked.
	dirty bitmap
}

// region is one mapping. Its address is a multiple of 2 MiB for either page
// size, so that a pager may map large chunks.
type region struct {
	span
	offset uint64
	bytes  []byte
}

// memoryOptions say how to map guest memory. File is nil for anonymous memory
// and is not needed any more once mapped.
type memoryOptions struct {
	spans []span
	page  uint64
	track bool
	file  *os.File
}

// mapMemory maps guest memory. Pages are not touched: nothing is reserved, and a
// shortage of huge pages shows when they are first touched (SIGBUS).
func mapMemory(o memoryOptions) (*memory, error) {
	m := &memory{page: o.page}
	if o.file != nil {
		m.backing = fileBacked
	}
	for _, s := range o.spans {
		mapped, err := mapRegion(s.Size, o.page, o.file, m.size)
		if err != nil {
			return nil, errors.Join(faultf("Cannot create mmap region: %w", osFault(err)), m.unmap())
		}
		m.regions = append(m.regions, region{span: s, offset: m.size, bytes: mapped})
		m.size += s.Size
	}
	if o.track {
		m.dirty = newBitmap(m.size / pageSize)
	}
	return m, nil
}

func (m *memory) unmap() error {
	var errs []error
	for _, r := range m.regions {
		errs = append(errs, unmapRegion(r.bytes))
	}
	m.regions = nil
	return errors.Join(errs...)
}

// at returns the n bytes of RAM from offset on, which must lie in one region.
func (m *memory) at(offset, n uint64) []byte {
	for i := range m.regions {
		if r := &m.regions[i]; offset-r.offset < r.Size {
			return r.bytes[offset-r.offset:][:n:n]
		}
	}
	return nil
}

// readable and writable return the page at offset, a multiple of pageSize; the
// latter marks it dirty.
func (m *memory) readable(offset uint64) []byte { return m.at(offset, pageSize) }

func (m *memory) writable(offset uint64) []byte {
	if m.dirty != nil {
		m.dirty.set(offset / pageSize)
	}
	return m.at(offset, pageSize)
}

// pieces calls f for each part of [offset, offset+n) that lies in one region, at
// most limit bytes long.
func (m *memory) pieces(offset, n, limit uint64, f func(offset uint64, part []byte) error) error {
	for end := offset + n; offset < end; {
		for i := range m.regions {
			r := &m.regions[i]
			if offset-r.offset >= r.Size {
				continue
			}
			size := min(end-offset, r.offset+r.Size-offset, limit)
			if err := f(offset, m.at(offset, size)); err != nil {
				return err
			}
			offset += size
			break
		}
	}
	return nil
}

// populate touches every page of part, which begins at a page, from user mode: a
// userfaultfd in its user-mode-only form does not serve a write(2) from it.
func (m *memory) populate(part []byte) {
	if m.backing != lazy {
		return
	}
	var sum byte
	for at := uint64(0); at < uint64(len(part)); at += m.page {
		sum |= part[at]
	}
	runtime.KeepAlive(sum)
}

// guard runs f, which touches guest memory, on a thread that may wait in a page
// fault, and reports whether it got through. It did not if a page could not be
// had: a memory file that was truncated, a pool without huge pages, a page that
// the pager poisoned.
func (m *memory) guard(f func()) (ok bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer holdPreemption()()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if !ok {
			m.swallowFault(recover())
		}
	}()
	f()
	return true
}

// swallowFault ends a panic that came from an access to guest memory. All other
// panics are bugs and go on.
func (m *memory) swallowFault(reason any) {
	var fault interface {
		runtime.Error
		Addr() uintptr
	}
	if err, is := reason.(error); is && errors.As(err, &fault) && m.contains(fault.Addr()) {
		return
	}
	panic(reason)
}
