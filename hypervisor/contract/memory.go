package contract

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/guest"
)

// memoryFile reads the memory file of a capture.
type memoryFile struct {
	t    *testing.T
	file *os.File
	size int64
}

func openMemory(t *testing.T, path string) *memoryFile {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return &memoryFile{t: t, file: file, size: info.Size()}
}

// at reads the page of memory that begins at offset.
func (m *memoryFile) at(offset uint64) []byte {
	m.t.Helper()
	page := make([]byte, guest.PageSize)
	if _, err := m.file.ReadAt(page, int64(offset)); err != nil {
		m.t.Fatal(err)
	}
	return page
}

// requirePages checks pages of the workload against the formula, with the seeds
// that the guest keeps in the same memory.
func (m *memoryFile) requirePages(w guest.Workload, which func(page uint64) bool) {
	m.t.Helper()
	seeds := m.at(guest.StateAddress)
	for p := range w.Pages {
		seed := binary.LittleEndian.Uint64(seeds[8*(p%w.Classes):])
		if which(p) && !guest.CheckPage(m.at(w.Address(p)), w, seed, p) {
			m.t.Fatalf("page %d, at offset %#x of the memory file, is not what the formula says", p, w.Address(p))
		}
	}
}

// data returns the offsets of all pages of the file that are not holes.
func (m *memoryFile) data() map[uint64]bool {
	m.t.Helper()
	pages := map[uint64]bool{}
	m.extents(func(start, end int64) {
		for at := start &^ (guest.PageSize - 1); at < end; at += guest.PageSize {
			pages[uint64(at)] = true
		}
	})
	return pages
}

func (m *memoryFile) extents(visit func(start, end int64)) {
	m.t.Helper()
	for at := int64(0); ; {
		start, err := unix.Seek(int(m.file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if at, err = unix.Seek(int(m.file.Fd()), start, unix.SEEK_HOLE); err != nil {
			m.t.Fatal(err)
		}
		visit(start, at)
	}
}

// flatten lays diffs over a base, oldest first, as a new file at path.
func flatten(t *testing.T, path string, base string, diffs ...string) {
	t.Helper()
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, layer := range append([]string{base}, diffs...) {
		m := openMemory(t, layer)
		if err := out.Truncate(m.size); err != nil {
			t.Fatal(err)
		}
		m.extents(func(start, end int64) {
			if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(m.file, start, end-start)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
