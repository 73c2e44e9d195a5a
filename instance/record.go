package instance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/memimage"
)

// Names in the directory of an instance or a snapshot.
const (
	recordName         = "instance.json"
	snapshotRecordName = "snapshot.json"
	kernelName         = "kernel"
	initrdName         = "initrd"
	vsockName          = "vsock.sock"
	// disksBefore holds the disks while those of a capture take their place.
	disksBefore = "disks.before"
)

// recordVersion is the version of both records that this package reads and writes.
const recordVersion = 1

// maxRecordBytes bounds a record; the largest valid one is far smaller.
const maxRecordBytes = 256 << 10

// record is the content of instance.json: what cannot be found out otherwise. It
// says what an instance is and which process and session are its own; whether
// these live is asked of them.
type record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Spec    Spec      `json:"spec"`
	// Taps are the names of the taps that the Manager makes for the instance, and
	// removes with it. The others in Spec are somebody else's.
	Taps   []string `json:"taps,omitempty"`
	Origin *Origin  `json:"origin,omitempty"`
	// Identity are the caller's bytes on a fork's identity page.
	Identity []byte `json:"identity,omitempty"`
	// Announce tells that the guest has not been told its new address yet.
	Announce bool `json:"announce,omitempty"`
	// Capture is the id of the newest capture, in captures/.
	Capture string `json:"capture,omitempty"`
	// Parked tells that the instance stands by: it shall be restored from Capture.
	Parked bool `json:"parked,omitempty"`
	// Failure says why the last VMM ended without having been asked to.
	Failure string       `json:"failure,omitempty"`
	VMM     *vmmRecord   `json:"vmm,omitempty"`
	Pending *interrupted `json:"pending,omitempty"`
}

// vmmRecord identifies the VMM of an instance.
type vmmRecord struct {
	PID int `json:"pid"`
	// StartTime is in clock ticks since boot; see hypervisor.ProcessRef.
	StartTime uint64 `json:"start_time"`
	// Session is the pager's, or empty.
	Session string  `json:"session,omitempty"`
	Backend *Choice `json:"backend,omitempty"`
	// Based tells that the VMM's dirty pages are those since the record's Capture.
	Based bool `json:"based,omitempty"`
}

// interrupted is an operation that was begun and has not ended. Whoever finds it
// without the operation undoes or finishes it, as the phase says.
type interrupted struct {
	Phase     phase     `json:"phase"`
	Operation Operation `json:"operation"`
	// Session is the id of the pager's session that the operation may have made.
	Session string `json:"session,omitempty"`
	// Resume tells that the guest ran, and has to run again.
	Resume bool `json:"resume,omitempty"`
}

// phase is how far an operation got, in terms of what has to be done about it:
//
//	up         a VMM may run that no record names: undo by ending it
//	birth      the same, of an instance that nobody has been told of: undo by removing it
//	capture    the guest may be paused, a capture too many may be there: undo
//	park       the capture is the instance now: finish by ending the VMM
//	stop       finish by ending the VMM and removing the captures
//	delete     finish by ending the VMM and removing the instance
type phase string

const (
	phaseUp      phase = "up"
	phaseBirth   phase = "birth"
	phaseCapture phase = "capture"
	phasePark    phase = "park"
	phaseStop    phase = "stop"
	phaseDelete  phase = "delete"
)

func (r record) encode() ([]byte, error) { return encode(r) }

// writeRecord writes a record to its file, atomically.
func writeRecord(path string, rec interface{ encode() ([]byte, error) }) error {
	data, err := rec.encode()
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(path, data, 0o600)
}

// decodeRecord reads the content of instance.json. An unknown field is an error: it
// would be a property of the instance that this program does not honour.
func decodeRecord(data []byte) (record, error) {
	var r record
	if err := decode(data, &r); err != nil {
		return record{}, err
	}
	return r, r.validate()
}

func (r record) validate() error {
	errs := []error{checkVersion(r.Version), checkID(r.ID), checkName(r.Name), r.Spec.validate()}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Capture != "" && !captureID.MatchString(r.Capture) {
		fault("capture %.80q is no capture's id", r.Capture)
	}
	if r.Parked && r.Capture == "" {
		fault("parked without a capture")
	}
	if r.Parked && r.VMM != nil && (r.Pending == nil || r.Pending.Phase != phasePark) {
		fault("parked with a VMM")
	}
	if len(r.Identity) > MaxIdentity {
		fault("identity of %d bytes, more than %d", len(r.Identity), MaxIdentity)
	}
	if r.VMM != nil && (r.VMM.PID < 1 || r.VMM.StartTime == 0) {
		fault("vmm has pid %d and start time %d", r.VMM.PID, r.VMM.StartTime)
	}
	if r.VMM != nil && r.VMM.Based && r.Capture == "" {
		fault("vmm is based on no capture")
	}
	for _, tap := range r.Taps {
		if !slices.ContainsFunc(r.Spec.Networks, func(n Network) bool { return n.Tap == tap }) {
			fault("taps: %.80q is the tap of no network", tap)
		}
	}
	if p := r.Pending; p != nil {
		switch p.Phase {
		case phaseUp, phaseBirth, phaseCapture, phasePark, phaseStop, phaseDelete:
		default:
			fault("pending phase %.80q is unknown", p.Phase)
		}
	}
	return errors.Join(errs...)
}

// snapshotRecord is the content of snapshot.json. The rest is the capture's.
type snapshotRecord struct {
	Version      int       `json:"version"`
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Created      time.Time `json:"created"`
	Instance     string    `json:"instance"`
	InstanceName string    `json:"instance_name"`
	Spec         Spec      `json:"spec"`
}

func (r snapshotRecord) encode() ([]byte, error) { return encode(r) }

// decodeSnapshotRecord reads the content of snapshot.json, as strictly as
// decodeRecord.
func decodeSnapshotRecord(data []byte) (snapshotRecord, error) {
	var r snapshotRecord
	if err := decode(data, &r); err != nil {
		return snapshotRecord{}, err
	}
	return r, errors.Join(checkVersion(r.Version), checkID(r.ID), checkName(r.Name), checkID(r.Instance), checkName(r.InstanceName), r.Spec.validate())
}

func checkVersion(v int) error {
	if v != recordVersion {
		return fmt.Errorf("version is %d, this program reads version %d", v, recordVersion)
	}
	return nil
}

func encode(v any) ([]byte, error) {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return append(out, '\n'), nil
}

func decode(data []byte, v any) error {
	if len(data) > maxRecordBytes {
		return fmt.Errorf("decode record: %d bytes are more than %d", len(data), maxRecordBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode record: something follows the JSON object")
	}
	return nil
}

const mebibyte = 1 << 20

// pageSize is the guest's page size in bytes.
const pageSize = memimage.PageSize
