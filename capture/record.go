package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/memimage"
)

// Names inside the directory of a capture, beside those of package memimage.
const (
	// RecordName is the capture's record.
	RecordName = "capture.json"
	// StateName is the VM state.
	StateName = "vmstate"
	// DisksDir holds the disks, in a capture as in an instance's directory.
	DisksDir = "disks"
)

// recordVersion is the version of capture.json that this package reads and writes.
const recordVersion = 1

// Bounds of a record: what a decoder accepts is no more than a host can mean.
const (
	maxRecordBytes = 64 << 10
	maxDisks       = 64
	maxText        = 256 // bytes of a free text, such as a CPU's model
)

// Record is the content of capture.json: what a capture is and where it can be
// restored. A VM state loads only into a VMM that knows its snapshot version, on
// the same CPU model and, with few exceptions, the same kernel (Firecracker's
// docs/snapshotting/versioning.md).
type Record struct {
	// Version is the format's version, 1.
	Version int `json:"version"`
	// ID names the capture, for its whole life and in all copies of it.
	ID string `json:"id"`
	// Time is when the microVM was paused, in UTC.
	Time time.Time `json:"time"`
	// Hypervisor is the program that wrote the VM state.
	Hypervisor Hypervisor `json:"hypervisor"`
	// CPUModel is the host's CPU as /proc/cpuinfo names it. It may be empty.
	CPUModel string `json:"cpu_model"`
	// HostKernel is the release of the host's kernel.
	HostKernel string `json:"host_kernel"`
	// Kind is that of the layer that this capture added: a full one stands by
	// itself, a diff lies over the layers of Base.
	Kind memimage.Kind `json:"kind"`
	// Base is the id of the capture below, and empty for a full one. It tells the
	// origin and is not needed for anything: that capture may be gone.
	Base string `json:"base,omitempty"`
	// MemoryBytes is the guest's memory.
	MemoryBytes uint64 `json:"memory_bytes"`
	// PauseMS is how long the guest stood still for the capture, in milliseconds;
	// for one that ended the VMM, until its files were complete.
	PauseMS float64 `json:"pause_ms"`
	// Disks are the guest's disks.
	Disks []Disk `json:"disks"`
}

// Hypervisor names a program and the format of its VM states.
type Hypervisor struct {
	// Name is "firecracker" or "fcsim".
	Name string `json:"name"`
	// Version is the program's, like "v1.16.1".
	Version string `json:"version"`
	// SnapshotVersion is that of the VM state, like "v10.0.0"; empty where the
	// program could not tell.
	SnapshotVersion string `json:"snapshot_version,omitempty"`
}

// Disk is a disk of the guest. The VMM opens it as disks/<name> in its working
// directory; the capture holds it under the same name.
type Disk struct {
	// Name is the file's name: 1 to 64 letters, digits, dots, dashes and
	// underscores, the first one not a dot.
	Name string `json:"name"`
	// ReadOnly tells that nobody writes to it, so that it can be shared.
	ReadOnly bool `json:"read_only"`
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// validName reports whether a name is safe as a file's and as a capture's: it
// cannot be mistaken for one that Sweep removes.
func validName(name string) bool { return namePattern.MatchString(name) }

// Validate reports every fault of the record in itself; it looks at no files.
func (r Record) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Version != recordVersion {
		fault("version is %d, this program reads version %d", r.Version, recordVersion)
	}
	if !validName(r.ID) {
		fault("id %.80q is not 1 to 64 letters, digits, dots, dashes and underscores, the first one not a dot", r.ID)
	}
	if r.Time.IsZero() || r.Time.Location() != time.UTC {
		fault("time %v is not a time in UTC", r.Time)
	}
	for name, text := range map[string]string{
		"hypervisor.name": r.Hypervisor.Name, "hypervisor.version": r.Hypervisor.Version,
		"hypervisor.snapshot_version": r.Hypervisor.SnapshotVersion, "cpu_model": r.CPUModel, "host_kernel": r.HostKernel,
	} {
		if len(text) > maxText || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\uFFFD' }) {
			fault("%s %.80q is not a line of at most %d bytes", name, text, maxText)
		}
	}
	if r.Hypervisor.Name == "" || r.Hypervisor.Version == "" {
		fault("hypervisor lacks its name or version")
	}
	switch r.Kind {
	case memimage.Full:
		if r.Base != "" {
			fault("base is %.80q, a full capture has none", r.Base)
		}
	case memimage.Diff:
		if !validName(r.Base) {
			fault("base %.80q of a diff capture is no capture's id", r.Base)
		}
	default:
		fault("kind %.80q is neither %q nor %q", string(r.Kind), memimage.Full, memimage.Diff)
	}
	if r.MemoryBytes == 0 || r.MemoryBytes%memimage.PageSize != 0 {
		fault("memory_bytes is %d, want a positive multiple of %d", r.MemoryBytes, memimage.PageSize)
	}
	if !(r.PauseMS >= 0) {
		fault("pause_ms is %v, want 0 or more", r.PauseMS)
	}
	return errors.Join(append(errs, checkDisks(r.Disks))...)
}

// checkDisks reports what is wrong with the names of disks.
func checkDisks(disks []Disk) error {
	if len(disks) > maxDisks {
		return fmt.Errorf("%d disks are more than %d", len(disks), maxDisks)
	}
	var errs []error
	seen := make(map[string]bool, len(disks))
	for i, d := range disks {
		if !validName(d.Name) {
			errs = append(errs, fmt.Errorf("disks[%d]: name %.80q is not 1 to 64 letters, digits, dots, dashes and underscores, the first one not a dot", i, d.Name))
		}
		if seen[d.Name] {
			errs = append(errs, fmt.Errorf("disks[%d]: name %.80q is there twice", i, d.Name))
		}
		seen[d.Name] = true
	}
	return errors.Join(errs...)
}

// Encode returns the content of capture.json.
func (r Record) Encode() ([]byte, error) {
	if r.Disks == nil {
		r.Disks = []Disk{} // an empty list, not null
	}
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode capture record: %w", err)
	}
	return append(out, '\n'), nil
}

// DecodeRecord reads the content of capture.json and validates it. An unknown
// field is an error: it would be a property of the capture that this program does
// not honour.
func DecodeRecord(data []byte) (Record, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var r Record
	if err := dec.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("decode capture record: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Record{}, errors.New("decode capture record: something follows the JSON object")
	}
	if err := r.Validate(); err != nil {
		return Record{}, err
	}
	return r, nil
}
