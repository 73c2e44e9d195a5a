package fcsim

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/guest"
)

func containsText(s, part string) bool { return strings.Contains(s, part) }

func decodeFile(t *testing.T, path string) *vmState {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := decodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func encodeFile(t *testing.T, s *vmState, path string) {
	t.Helper()
	data, err := s.encode()
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sampleState is a state with everything in it.
func sampleState() *vmState {
	args, path, mac := guest.Default(1000).BootArgs(), "disk.raw", "06:00:ac:10:00:02"
	machine := machineConfig{VCPUs: 2, MemSizeMiB: 4096, HugePages: hugePagesNone}
	return &vmState{
		Machine: machine,
		Boot:    bootSource{Kernel: "kernel", BootArgs: &args},
		Spans:   layout(machine.MemSizeMiB << 20),
		Guest:   progress{Phase: checking, Pass: 3, Seed: 4, Auto: true, Shares: []share{{Next: 10, First: guest.NoPage}, {Next: 7, Bad: 1, First: 3, Pages: 4}}},
		Drives:  []driveConfig{{ID: "root", Root: true, CacheType: "Unsafe", Path: &path, Engine: "Sync", RateLimiter: []byte("null")}},
		Nets:    []netConfig{{ID: "eth0", HostDevName: "tap0", MAC: &mac, RXLimiter: []byte("null"), TXLimiter: []byte("null")}},
		Vsock:   &vsockConfig{CID: 3, Path: "v.sock"},
		Balloon: &balloonState{Config: balloonConfig{AmountMiB: 1}, Actual: 256, Given: 300, Zeroed: 256},
	}
}

func TestStateRoundTrip(t *testing.T) {
	want := sampleState()
	data, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v, err := stateVersion(data); err != nil || v == [3]uint16{} {
		t.Errorf("version %v, %v", v, err)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	good, err := sampleState().encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := decodeState(good[:n]); err == nil {
			t.Fatalf("cut to %d of %d bytes", n, len(good))
		}
		damaged := append([]byte(nil), good...)
		damaged[n] ^= 0x10
		if _, err := decodeState(damaged); err == nil {
			t.Fatalf("bit flipped in byte %d of %d", n, len(good))
		}
	}
	if _, err := decodeState(append(good[:len(good):len(good)], 0)); err == nil {
		t.Error("a byte too many")
	}
}

func TestInconsistentStateIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*vmState){
		"spans":         func(s *vmState) { s.Spans[0].Size-- },
		"no vCPU":       func(s *vmState) { s.Machine.VCPUs = 0 },
		"shares":        func(s *vmState) { s.Guest.Shares = s.Guest.Shares[:1] },
		"visit":         func(s *vmState) { s.Guest.Shares[1].Next = 8 },
		"phase":         func(s *vmState) { s.Guest.Phase = "sleeping" },
		"balloon":       func(s *vmState) { s.Balloon.Zeroed = 301 },
		"large balloon": func(s *vmState) { s.Balloon.Given = 1 << 40 },
		"workload":      func(s *vmState) { *s.Boot.BootArgs = "faultline.pages=0" },
		"memory":        func(s *vmState) { s.Machine.MemSizeMiB = 1 << 60 },
	} {
		s := sampleState()
		spoil(s)
		data, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStateOfAnotherVersion(t *testing.T) {
	data, err := sampleState().encode()
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(at int, value byte) []byte {
		changed := append([]byte(nil), data[:len(data)-stateTrailer]...)
		changed[at] = value
		sum := checksum(changed)
		for i := range stateTrailer {
			changed = append(changed, byte(sum>>(8*i)))
		}
		return changed
	}
	major := len(stateMagic)
	for name, file := range map[string][]byte{"major": reseal(major, 99), "minor": reseal(major+2, 99)} {
		if _, err := decodeState(file); err == nil || !strings.Contains(err.Error(), "Invalid data version") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeState(reseal(major+4, 99)); err != nil {
		t.Errorf("a newer patch: %v", err)
	}
}

func TestLargeStateIsRefused(t *testing.T) {
	if _, err := readState(strings.NewReader(strings.Repeat("x", maxState+1))); err == nil {
		t.Error("accepted")
	}
	if _, err := readState(strings.NewReader(strings.Repeat("x", maxState))); err != nil {
		t.Error(err)
	}
}

// FuzzDecodeState: no file makes the decoder panic, and what it accepts can be
// encoded and decoded again. The checksum is mended, or nothing would get past it.
func FuzzDecodeState(f *testing.F) {
	good, err := sampleState().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[stateHeader:len(good)-stateTrailer], good[len(stateMagic):stateHeader])
	f.Add([]byte(`{}`), []byte{1, 0, 0, 0, 0, 0})
	f.Add([]byte(`{"guest":{"shares":[{"next":18446744073709551615}]}}`), []byte{1, 0})
	f.Fuzz(func(t *testing.T, payload, version []byte) {
		data := append(append([]byte(stateMagic), version...), payload...)
		sum := checksum(data)
		for i := range stateTrailer {
			data = append(data, byte(sum>>(8*i)))
		}
		s, err := decodeState(data)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(again); err != nil {
			t.Fatal(err)
		}
	})
}
