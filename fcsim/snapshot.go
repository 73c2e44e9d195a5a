package fcsim

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// snapshotConfig is the body of PUT /snapshot/create.
type snapshotConfig struct {
	kind      string // snapshotFull or snapshotDiff
	statePath string
	memPath   string
}

const (
	snapshotFull = "Full"
	snapshotDiff = "Diff"
)

func (c *snapshotConfig) members() []member {
	return []member{
		{"snapshot_type", &c.kind, defaulted, []string{snapshotDiff, snapshotFull}},
		{"snapshot_path", &c.statePath, required, nil},
		{"mem_file_path", &c.memPath, required, nil},
	}
}

// writeState writes the VM state file and brings it to disk. It comes first: a
// memory file that cannot be written leaves a state file behind, as with Firecracker.
func writeState(path string, s *vmState) error {
	encoded, err := s.encode()
	if err != nil {
		return faultf("Cannot serialize the microVM state: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return faultf("Cannot perform open on the snapshot backing file: %w", osFault(err))
	}
	if _, err = file.Write(encoded); err != nil {
		err = faultf("Cannot serialize the microVM state: IO Error: %w", osFault(err))
	} else if err = file.Sync(); err != nil {
		err = faultf("Cannot perform sync_all on the snapshot backing file: %w", osFault(err))
	}
	// Nothing is written by a close after a sync.
	_ = file.Close()
	return err
}

// writeMemory writes all pages (Full) or those written since the last snapshot
// (Diff) at their offsets and brings them to disk. A file of another size is
// emptied first; one of the right size is written over, so that a Diff merges into
// it, and a Full over the file that backs this very guest does not cut its memory
// off.
func (m *memory) writeMemory(path, kind string) error {
	info, statErr := os.Stat(path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return backingFault("open", err)
	}
	defer func() { _ = file.Close() }() // after the sync, or after a failure that is reported
	if statErr == nil && info.Size() != int64(m.size) {
		if err := file.Truncate(0); err != nil {
			return backingFault("truncate", err)
		}
	}
	if err := file.Truncate(int64(m.size)); err != nil {
		return backingFault("set_length", err)
	}
	if kind == snapshotFull {
		err = m.dump(file, 0, m.size)
	} else {
		err = m.dumpDirty(file)
	}
	if err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return backingFault("sync_all", err)
	}
	if m.dirty != nil {
		m.dirty.reset()
	}
	return nil
}

func backingFault(call string, err error) error {
	return faultf("Cannot perform %s on the memory backing file: %w", call, osFault(err))
}

// dumpChunk is how many bytes are made present and written at a time.
const dumpChunk = 1 << 20

func (m *memory) dump(file *os.File, offset, n uint64) error {
	return m.pieces(offset, n, dumpChunk, func(offset uint64, part []byte) error {
		m.populate(part)
		for len(part) > 0 {
			done, err := unix.Pwrite(int(file.Fd()), part, int64(offset))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return faultf("Cannot write memory file: Cannot dump memory: Guest memory error: %w", osFault(err))
			}
			part, offset = part[done:], offset+uint64(done)
		}
		return nil
	})
}

// dumpDirty writes runs of dirty pages: those of the bitmap or, when writes are
// not tracked, those that are resident, which Firecracker does since 1.13.
func (m *memory) dumpDirty(file *os.File) error {
	is := m.dirty.has
	if m.dirty == nil {
		vec, err := m.residency()
		if err != nil {
			return faultf("Cannot get dirty bitmap: %w", osFault(err))
		}
		is = func(page uint64) bool { return vec[page]&1 != 0 }
	}
	pages := m.size / pageSize
	for page := uint64(0); page < pages; page++ {
		first := page
		for page < pages && is(page) {
			page++
		}
		if page == first {
			continue
		}
		if err := m.dump(file, first*pageSize, (page-first)*pageSize); err != nil {
			return err
		}
	}
	return nil
}

// residency returns one byte per page; bit 0 says that the page is in memory.
func (m *memory) residency() ([]byte, error) {
	vec := make([]byte, m.size/pageSize)
	for _, r := range m.regions {
		if err := resident(r.bytes, vec[r.offset/pageSize:]); err != nil {
			return nil, err
		}
	}
	return vec, nil
}
