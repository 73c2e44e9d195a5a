package capture

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/memimage"
)

func goodRecord() Record {
	return Record{
		Version: recordVersion, ID: "c1", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Hypervisor: Hypervisor{Name: "firecracker", Version: "v1.16.1", SnapshotVersion: "v10.0.0"},
		CPUModel:   "A CPU @ 2.00GHz", HostKernel: "6.18.0", Kind: memimage.Diff, Base: "c0",
		MemoryBytes: 128 << 20, PauseMS: 12.5, Disks: []Disk{{Name: "root", ReadOnly: true}, {Name: "data.raw"}},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	without := goodRecord()
	without.Disks, without.Kind, without.Base = []Disk{}, memimage.Full, ""
	for _, r := range []Record{goodRecord(), without} {
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRecordFaults(t *testing.T) {
	for says, spoil := range map[string]func(*Record){
		"version":         func(r *Record) { r.Version = 2 },
		"id":              func(r *Record) { r.ID = "../x" },
		"time":            func(r *Record) { r.Time = time.Time{} },
		"UTC":             func(r *Record) { r.Time = r.Time.In(time.FixedZone("x", 3600)) },
		"hypervisor":      func(r *Record) { r.Hypervisor.Name = "" },
		"cpu_model":       func(r *Record) { r.CPUModel = "two\nlines" },
		"host_kernel":     func(r *Record) { r.HostKernel = strings.Repeat("x", maxText+1) },
		"kind":            func(r *Record) { r.Kind = "half" },
		"base":            func(r *Record) { r.Base = "" },
		"full capture":    func(r *Record) { r.Kind = memimage.Full },
		"memory_bytes":    func(r *Record) { r.MemoryBytes = 4097 },
		"pause_ms":        func(r *Record) { r.PauseMS = -1 },
		"disks[0]":        func(r *Record) { r.Disks[0].Name = ".new-x" },
		"there twice":     func(r *Record) { r.Disks[1].Name = "root" },
		"are more than":   func(r *Record) { r.Disks = make([]Disk, maxDisks+1) },
		"want 0 or more":  func(r *Record) { r.PauseMS = math.NaN() },
		"positive multip": func(r *Record) { r.MemoryBytes = 0 },
	} {
		r := goodRecord()
		spoil(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v does not say %q", err, says)
		}
	}
}

func TestDecodeRecordIsStrict(t *testing.T) {
	data, err := goodRecord().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for name, text := range map[string]string{
		"an unknown field":    strings.Replace(good, `"version": 1,`, `"version": 1, "colour": "red",`, 1),
		"something behind it": good + "{}",
		"nothing":             "",
		"a list":              "[" + good + "]",
	} {
		if text == good {
			t.Fatalf("%s: the test spoils nothing", name)
		}
		if _, err := DecodeRecord([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	data, err := goodRecord().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"id":"a","time":"2026-01-01T00:00:00+00:00","kind":"full","memory_bytes":4096}`))
	f.Add([]byte(`{"version":1,"disks":[{"name":"."}],"pause_ms":1e400}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRecord(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r2, err := DecodeRecord(again)
		if err != nil {
			t.Fatalf("what was accepted is refused when encoded again: %v", err)
		}
		if len(r.Disks) == 0 {
			r.Disks, r2.Disks = nil, nil
		}
		if diff := cmp.Diff(r, r2); diff != "" {
			t.Error(diff)
		}
	})
}

func TestParseCPUModel(t *testing.T) {
	for text, want := range map[string]string{
		"processor\t: 0\nmodel name\t: Some CPU\x01 v2\n\nprocessor\t: 1\nmodel name\t: Other\n":                "Some CPU v2",
		"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\nCPU variant\t: 0x3\nCPU revision\t: 1\n\n": "implementer 0x41 part 0xd0c variant 0x3 revision 1",
		"": "",
	} {
		if got := parseCPUModel([]byte(text)); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
