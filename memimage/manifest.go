package memimage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Names inside the directory of an image.
const (
	// ManifestName is the file that makes a directory a memory image.
	ManifestName = "memory.json"
	// LayersDir is the directory of layers and their indexes.
	LayersDir = "layers"
)

// manifestVersion is the version of memory.json that this package reads and writes.
const manifestVersion = 1

// maxManifestBytes bounds memory.json: MaxLayers entries of less than 512 bytes.
const maxManifestBytes = 512 * MaxLayers

// Manifest is the content of memory.json: what a memory image consists of.
type Manifest struct {
	// Version is the format's version, 1.
	Version int `json:"version"`
	// Size is the guest's memory in bytes, a multiple of PageSize. Every layer
	// has this size.
	Size uint64 `json:"size"`
	// PageSize is the constant PageSize.
	PageSize uint32 `json:"page_size"`
	// Layers are ordered oldest first; the first is full, all others are diffs.
	Layers []LayerEntry `json:"layers"`
}

// LayerEntry is one layer of a manifest.
type LayerEntry struct {
	ID   LayerID `json:"id"`
	Kind Kind    `json:"kind"`
	// File and Index are slash-separated paths relative to the manifest's
	// directory. They follow from ID; see LayerFile and IndexFile.
	File  string `json:"file"`
	Index string `json:"index"`
	// Size is the layer's length in bytes, holes included.
	Size uint64 `json:"size"`
}

// LayerFile returns the path of a layer relative to its image's directory.
func LayerFile(id LayerID) string { return LayersDir + "/" + string(id) + ".mem" }

// IndexFile returns the path of a page index relative to its image's directory.
func IndexFile(id LayerID) string { return LayersDir + "/" + string(id) + ".idx" }

// SumsFile returns the path of a layer's checksums relative to its image's
// directory. They are optional; see WriteSums.
func SumsFile(id LayerID) string { return LayersDir + "/" + string(id) + ".sum" }

// newEntry describes a layer under the names that every image uses.
func newEntry(id LayerID, kind Kind, size uint64) LayerEntry {
	return LayerEntry{ID: id, Kind: kind, File: LayerFile(id), Index: IndexFile(id), Size: size}
}

// Pages returns the number of pages of the image.
func (m Manifest) Pages() uint64 { return m.Size / PageSize }

// Stack names the content of the image: the size and the ids of the layers, which fix
// it. Images of equal stacks have the same memory.
func (m Manifest) Stack() string {
	var b strings.Builder
	b.WriteString(strconv.FormatUint(m.Size, 10))
	for _, entry := range m.Layers {
		b.WriteString(string(entry.ID))
	}
	return b.String()
}

// BeginsWith tells whether the oldest layers of the image are those of the stack
// other, all of them.
func (m Manifest) BeginsWith(other Manifest) bool {
	return m.Size == other.Size && len(m.Layers) >= len(other.Layers) &&
		slices.EqualFunc(m.Layers[:len(other.Layers)], other.Layers, func(a, b LayerEntry) bool { return a.ID == b.ID })
}

// Validate reports every fault of the manifest in itself; it looks at no files.
func (m Manifest) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if m.Version != manifestVersion {
		fault("version is %d, this program reads version %d", m.Version, manifestVersion)
	}
	if m.PageSize != PageSize {
		fault("page_size is %d, want %d", m.PageSize, PageSize)
	}
	if m.Size == 0 || m.Size%PageSize != 0 || m.Pages() > MaxPages {
		fault("size is %d, want a positive multiple of %d up to %d", m.Size, PageSize, uint64(MaxPages)*PageSize)
	}
	if len(m.Layers) == 0 || len(m.Layers) > MaxLayers {
		fault("layers has %d entries, want 1 to %d", len(m.Layers), MaxLayers)
		return errors.Join(errs...)
	}
	seen := make(map[LayerID]bool, len(m.Layers))
	for i, l := range m.Layers {
		if err := l.validate(i == 0, m.Size); err != nil {
			fault("layers[%d]: %w", i, err)
		}
		if seen[l.ID] {
			fault("layers[%d]: id %.40q is there twice", i, string(l.ID))
		}
		seen[l.ID] = true
	}
	return errors.Join(errs...)
}

// validate checks one entry of an image of so many bytes.
func (l LayerEntry) validate(oldest bool, size uint64) error {
	if _, err := ParseLayerID(string(l.ID)); err != nil {
		return err
	}
	if err := l.Kind.check(); err != nil {
		return err
	}
	if oldest != (l.Kind == Full) {
		return fmt.Errorf("kind is %q: the oldest layer must be full and all others diff", l.Kind)
	}
	// Only these names: a path of another form could lead out of the directory.
	if l.File != LayerFile(l.ID) || l.Index != IndexFile(l.ID) {
		return fmt.Errorf("file %.80q and index %.80q, want %q and %q", l.File, l.Index, LayerFile(l.ID), IndexFile(l.ID))
	}
	if l.Size != size {
		return fmt.Errorf("size is %d, the image's %d", l.Size, size)
	}
	return nil
}

// Encode returns the content of memory.json.
func (m Manifest) Encode() ([]byte, error) {
	out, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(out, '\n'), nil
}

// DecodeManifest reads the content of memory.json and validates it. An unknown
// field is an error: it would be a property of the image that this program does
// not honour.
func DecodeManifest(data []byte) (Manifest, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("decode manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("decode manifest: something follows the JSON object")
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// ReadManifest reads and validates the manifest at path. Its errors are of type
// *FileError.
func ReadManifest(path string) (Manifest, error) {
	data, err := readWhole(path, maxManifestBytes, remedyManifest)
	if err != nil {
		return Manifest{}, err
	}
	m, err := DecodeManifest(data)
	if err != nil {
		return Manifest{}, &FileError{Path: path, Reason: ErrCorrupt, Remedy: remedyRestore, Err: err}
	}
	return m, nil
}

// readWhole reads a regular file of at most limit bytes; missing is the remedy
// where it does not exist.
func readWhole(path string, limit uint64, missing string) ([]byte, error) {
	f, size, err := openRegular(path, os.O_RDONLY, missing)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, &FileError{
			Path: path, Reason: ErrCorrupt, Remedy: remedyRestore,
			Detail: fmt.Sprintf("%d bytes, at most %d can be right", size, limit),
		}
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, &FileError{Path: path, Reason: ErrUnreadable, Remedy: remedyAccess, Err: err}
	}
	return data, nil
}

// layerPaths returns the paths of a layer and its index in an image's directory.
func layerPaths(dir string, l LayerEntry) (mem, idx string) {
	return filepath.Join(dir, filepath.FromSlash(l.File)), filepath.Join(dir, filepath.FromSlash(l.Index))
}
