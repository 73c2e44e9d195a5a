package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/faultline-vm/faultline/memimage"
)

// ErrNoCapture: the directory is not a capture.
var ErrNoCapture = errors.New("not a capture")

// Capture is a published capture. It is a value that names files; it holds nothing
// open, and the capture may be removed while values of it exist.
type Capture struct {
	// Dir is the capture's directory.
	Dir string
	// Record is the content of its capture.json.
	Record Record
}

// StatePath returns the path of the VM state.
func (c Capture) StatePath() string { return filepath.Join(c.Dir, StateName) }

// ManifestPath returns the path of the memory image's manifest.
func (c Capture) ManifestPath() string { return filepath.Join(c.Dir, memimage.ManifestName) }

// Open opens the capture in dir. It reads the record and the manifest and looks
// whether the VM state and all disks are there; it opens no layer, which
// [memimage.Open] does. A directory that does not exist gives fs.ErrNotExist, one
// without a record [ErrNoCapture].
func Open(dir string) (Capture, error) {
	if _, err := os.Stat(dir); err != nil {
		return Capture{}, fmt.Errorf("open capture: %w", err)
	}
	record, err := readRecord(filepath.Join(dir, RecordName))
	if err != nil {
		return Capture{}, fmt.Errorf("open capture %s: %w", dir, err)
	}
	c := Capture{Dir: dir, Record: record}
	if err := c.check(); err != nil {
		return Capture{}, fmt.Errorf("open capture %s: %w; remove it and use another one", dir, err)
	}
	return c, nil
}

// check looks at the files that belong to the record.
func (c Capture) check() error {
	m, err := memimage.ReadManifest(c.ManifestPath())
	if err != nil {
		return err
	}
	if m.Size != c.Record.MemoryBytes {
		return fmt.Errorf("its memory image has %d bytes, its record says %d", m.Size, c.Record.MemoryBytes)
	}
	files := []string{StateName}
	for _, d := range c.Record.Disks {
		files = append(files, filepath.Join(DisksDir, d.Name))
	}
	for _, name := range files {
		info, err := os.Lstat(filepath.Join(c.Dir, name))
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
	}
	return nil
}

func readRecord(path string) (Record, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("%w: %w", ErrNoCapture, err)
	}
	if err != nil {
		return Record{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecordBytes {
		return Record{}, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxRecordBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	record, err := DecodeRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", path, err)
	}
	return record, nil
}

// List returns the captures in the directory parent, oldest first. Captures that
// cannot be opened are left out, and the error tells why; the others are good. A
// parent that does not exist holds none.
func List(parent string) ([]Capture, error) {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list captures: %w", err)
	}
	var list []Capture
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		c, err := Open(filepath.Join(parent, entry.Name()))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Capture) int {
		if order := a.Record.Time.Compare(b.Record.Time); order != 0 {
			return order
		}
		return strings.Compare(a.Record.ID, b.Record.ID)
	})
	return list, errors.Join(errs...)
}
