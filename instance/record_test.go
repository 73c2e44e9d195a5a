package instance

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sampleRecord() record {
	return record{
		Version: 1, ID: "0123456789abcdef", Name: "a", Created: time.Unix(1, 0).UTC(),
		Spec: Spec{
			Kernel: "/k", VCPUs: 1, MemoryBytes: mebibyte, VsockCID: 3, IdentityAddress: 4096,
			Drives: []Drive{{ID: "d", Source: "/d", Root: true}}, Networks: []Network{{ID: "n", Tap: "t", MAC: "02:00:00:00:00:01"}},
		},
		Taps: []string{"t"}, Origin: &Origin{Snapshot: "x", Capture: "c"}, Identity: []byte("id"), Capture: "c",
		VMM:     &vmmRecord{PID: 5, StartTime: 6, Session: "s", Backend: &Choice{Uffd, "why"}, Based: true},
		Pending: &interrupted{Phase: phaseCapture, Operation: OpFork, Resume: true},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	want := sampleRecord()
	data, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func TestRecordFaults(t *testing.T) {
	for want, spoil := range map[string]func(*record){
		"version is 2":     func(r *record) { r.Version = 2 },
		"16 lower-case":    func(r *record) { r.ID = "../../etc" },
		"63 lower-case":    func(r *record) { r.Name = "A" },
		"no capture's id":  func(r *record) { r.Capture = "../x" },
		"without a":        func(r *record) { r.Capture, r.Parked, r.VMM = "", true, nil },
		"parked with":      func(r *record) { r.Parked = true },
		"based on no":      func(r *record) { r.Capture = "" },
		"pid 0":            func(r *record) { r.VMM.PID = 0 },
		"phase":            func(r *record) { r.Pending.Phase = "x" },
		"more than 2048":   func(r *record) { r.Identity = make([]byte, MaxIdentity+1) },
		"33":               func(r *record) { r.Spec.VCPUs = 33 },
		"whole MiB":        func(r *record) { r.Spec.MemoryBytes = 0 },
		"2 MiB pages":      func(r *record) { r.Spec.HugePages = true },
		"reserved":         func(r *record) { r.Spec.VsockCID = 2 },
		"address of":       func(r *record) { r.Spec.IdentityAddress = mebibyte },
		"kernel":           func(r *record) { r.Spec.Kernel = "k" },
		"root device":      func(r *record) { r.Spec.Drives = append(r.Spec.Drives, Drive{ID: "e", Source: "/e", Root: true}) },
		"there twice":      func(r *record) { r.Spec.Drives = append(r.Spec.Drives, Drive{ID: "d", Source: "/e"}) },
		"15 letters":       func(r *record) { r.Spec.Networks[0].Tap = "a/b" },
		"tap of no":        func(r *record) { r.Taps = []string{"eth0"} },
		"hardware address": func(r *record) { r.Spec.Networks[0].MAC = "x" },
	} {
		r := sampleRecord()
		spoil(&r)
		data, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	for _, text := range []string{"", "null", "[]", `{"version":1,"nam":"x"}`, "{}{}", `{"version":1} x`} {
		if _, err := decodeRecord([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	data, err := sampleRecord().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeRecord(again); err != nil || !sameRecord(r, second) {
			t.Fatalf("what was read is not read again: %v\n%s", err, again)
		}
	})
}

func FuzzDecodeSnapshotRecord(f *testing.F) {
	r := sampleRecord()
	data, err := snapshotRecord{Version: 1, ID: r.ID, Name: "s", Created: r.Created, Instance: r.ID, InstanceName: "a", Spec: r.Spec}.encode()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := decodeSnapshotRecord(data); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"id":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeSnapshotRecord(data)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeSnapshotRecord(again); err != nil {
			t.Fatalf("what was read is not read again: %v\n%s", err, again)
		}
	})
}
