package fcsim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-vm/faultline/guest"
)

// A VM state file, little endian:
//
//	0   8 bytes   magic
//	8   3×2       major, minor, patch of the format
//	14  …         the state as a JSON object
//	-8  8 bytes   CRC64 (ECMA) of all before
//
// As with Firecracker, a file of the same major version and of a minor version
// that is not newer can be loaded, and none larger than 10 MB.
const (
	stateMagic   = "fcsimVM\x00"
	stateHeader  = len(stateMagic) + 3*2
	stateTrailer = 8
	maxState     = 10_000_000
)

// vmState is everything of a microVM but its memory.
type vmState struct {
	Machine machineConfig `json:"machine"`
	Boot    bootSource    `json:"boot"`
	Spans   []span        `json:"spans"`
	Guest   progress      `json:"guest"`
	Drives  []driveConfig `json:"drives"`
	Nets    []netConfig   `json:"nets"`
	Vsock   *vsockConfig  `json:"vsock"`
	Balloon *balloonState `json:"balloon"`
}

// formatVersion is SnapshotVersion's numbers.
func formatVersion() [3]uint16 {
	numbers, _, _ := strings.Cut(SnapshotVersion, "+")
	var version [3]uint16
	for i, text := range strings.Split(numbers, ".") {
		n, _ := strconv.ParseUint(text, 10, 16) // a constant, which a test parses
		version[i] = uint16(n)
	}
	return version
}

func (s *vmState) encode() ([]byte, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	encoded := []byte(stateMagic)
	for _, n := range formatVersion() {
		encoded = binary.LittleEndian.AppendUint16(encoded, n)
	}
	encoded = append(encoded, payload...)
	return binary.LittleEndian.AppendUint64(encoded, checksum(encoded)), nil
}

func checksum(data []byte) uint64 { return crc64.Checksum(data, crc64.MakeTable(crc64.ECMA)) }

// readState reads a VM state and refuses one that is too large before it has been
// read as a whole.
func readState(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxState+1))
	if err != nil {
		return nil, faultf("IO Error: %w", osFault(err))
	}
	if len(data) > maxState {
		return nil, faultf("Snapshot size exceeds limit of %d bytes", maxState)
	}
	return data, nil
}

// stateVersion checks magic, version and checksum.
func stateVersion(data []byte) ([3]uint16, error) {
	var version [3]uint16
	if len(data) < stateHeader+stateTrailer {
		return version, faultf("IO Error: File too short: %d bytes are no VM state of fcsim", len(data))
	}
	if !bytes.HasPrefix(data, []byte(stateMagic)) {
		return version, faultf("Magic value does not match: %x is not fcsim's. Firecracker's snapshots are loaded by Firecracker only", data[:len(stateMagic)])
	}
	for i := range version {
		version[i] = binary.LittleEndian.Uint16(data[len(stateMagic)+2*i:])
	}
	body, sum := data[:len(data)-stateTrailer], data[len(data)-stateTrailer:]
	if checksum(body) != binary.LittleEndian.Uint64(sum) {
		return version, faultf("CRC64 validation failed")
	}
	return version, nil
}

// decodeState reads a VM state and checks that all of it fits together.
func decodeState(data []byte) (*vmState, error) {
	version, err := stateVersion(data)
	if err != nil {
		return nil, err
	}
	if own := formatVersion(); version[0] != own[0] || version[1] > own[1] {
		return nil, faultf("Invalid data version: %d.%d.%d", version[0], version[1], version[2])
	}
	d := json.NewDecoder(bytes.NewReader(data[stateHeader : len(data)-stateTrailer]))
	d.DisallowUnknownFields()
	s := &vmState{}
	if err := d.Decode(s); err != nil {
		return nil, faultf("An error occurred during deserialization: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, faultf("An error occurred during deserialization: trailing data")
	}
	return s, s.validate()
}

func (s *vmState) validate() error {
	if err := s.Machine.validate(); err != nil {
		return err
	}
	size := s.Machine.MemSizeMiB << 20
	if !slices.Equal(s.Spans, layout(size)) {
		return faultf("memory regions %v are not those of a machine of %d MiB", s.Spans, s.Machine.MemSizeMiB)
	}
	if _, err := s.workload(); err != nil {
		return err
	}
	if s.Balloon != nil {
		if err := s.Balloon.validate(size / pageSize); err != nil {
			return err
		}
	}
	return s.Guest.validate(int(s.Machine.VCPUs))
}

// workload is what the guest was booted with.
func (s *vmState) workload() (guest.Workload, error) {
	return parseWorkload(s.Boot, s.Machine.MemSizeMiB<<20)
}

func parseWorkload(b bootSource, memory uint64) (guest.Workload, error) {
	args := ""
	if b.BootArgs != nil {
		args = *b.BootArgs
	}
	w, err := guest.ParseBootArgs(args)
	if err == nil {
		err = w.Validate(memory)
	}
	if err != nil {
		return w, fmt.Errorf("workload in boot_args: %w", err)
	}
	return w, nil
}
