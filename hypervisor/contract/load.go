package contract

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// testLoad restores one capture in every way.
func (s suite) testLoad(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")

	t.Run("Paused", func(t *testing.T) {
		spec := c.fromFile()
		spec.Resume = false
		m := s.restore(t, shortdir.Make(t), w, spec)
		m.requireState(hypervisor.Paused)
		m.send(guest.CommandPing)
		m.requireSilence()
		m.resume()
		m.requireState(hypervisor.Running)
		m.expectPong()
		m.check()
	})
	t.Run("Resumed", func(t *testing.T) {
		m := s.restore(t, shortdir.Make(t), w, c.fromFile())
		m.requireState(hypervisor.Running)
		m.check()
	})
	t.Run("ManyOfOne", func(t *testing.T) {
		// Forks of one memory file do not see each other's pages.
		a, b := s.restore(t, shortdir.Make(t), w, c.fromFile()), s.restore(t, shortdir.Make(t), w, c.fromFile())
		for range 2 {
			a.write()
			b.write()
			a.check()
			b.check()
		}
		openMemory(t, c.memory).requirePages(w, func(uint64) bool { return true })
	})
	t.Run("ClockRealtime", func(t *testing.T) {
		spec := c.fromFile()
		spec.ClockRealtime = true
		s.restore(t, shortdir.Make(t), w, spec).check()
	})
	t.Run("CaptureOfFork", func(t *testing.T) {
		m := s.restore(t, shortdir.Make(t), w, c.fromFile())
		m.write()
		m.pause()
		second := m.snapshot(hypervisor.Full, "second")
		s.restore(t, shortdir.Make(t), w, second.fromFile()).check()
	})
	source.resume()
	source.check()
}

// testFailedLoad shows that a load that fails is answered with the reason and
// ends the VMM, whatever the reason.
func (s suite) testFailedLoad(t *testing.T) {
	w := workload()
	source := s.boot(t, w, nil)
	source.pause()
	c := source.snapshot(hypervisor.Full, "base")
	if err := source.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadFile(c.state)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(name string, content []byte) func(*testing.T) {
		return func(t *testing.T) {
			bad := c
			bad.state = filepath.Join(shortdir.Make(t), name)
			if err := os.WriteFile(bad.state, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s.requireFailedLoad(t, shortdir.Make(t), bad.fromFile())
		}
	}
	flipped := append([]byte(nil), state...)
	flipped[len(flipped)/2] ^= 1
	t.Run("StateFlipped", damaged("flipped", flipped))
	t.Run("StateTruncated", damaged("truncated", state[:len(state)/2]))
	t.Run("StateWithoutChecksum", damaged("unchecked", state[:len(state)-8]))
	t.Run("StateEmpty", damaged("empty", nil))
	t.Run("StateOfAnotherProgram", damaged("foreign", []byte("#!/bin/sh\necho no\n")))

	t.Run("StateMissing", func(t *testing.T) {
		bad := c
		bad.state = "missing"
		s.requireFailedLoad(t, shortdir.Make(t), bad.fromFile())
	})
	t.Run("MemoryMissing", func(t *testing.T) {
		bad := c
		bad.memory = "missing"
		s.requireFailedLoad(t, shortdir.Make(t), bad.fromFile())
	})
	t.Run("MemoryShort", func(t *testing.T) {
		bad := capture{state: c.state, memory: filepath.Join(shortdir.Make(t), "short")}
		copyFile(t, c.memory, bad.memory)
		if err := os.Truncate(bad.memory, memoryMiB*mebibyte-guest.PageSize); err != nil {
			t.Fatal(err)
		}
		s.requireFailedLoad(t, shortdir.Make(t), bad.fromFile())
	})
	t.Run("SocketMissing", func(t *testing.T) { s.requireFailedLoad(t, shortdir.Make(t), c.fromSocket("missing.sock")) })
	t.Run("SocketWithoutListener", func(t *testing.T) {
		path := filepath.Join(shortdir.Make(t), "dead.sock")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		listener.Close()
		s.requireFailedLoad(t, shortdir.Make(t), c.fromSocket(path))
	})
	t.Run("SocketIsAFile", func(t *testing.T) { s.requireFailedLoad(t, shortdir.Make(t), c.fromSocket(c.memory)) })
	t.Run("UnknownInterface", func(t *testing.T) {
		spec := c.fromFile()
		spec.NetworkOverrides = []hypervisor.NetworkOverride{{ID: "eth7", Tap: "tap7"}}
		s.requireFailedLoad(t, shortdir.Make(t), spec)
	})
	t.Run("VsockOverrideWithoutVsock", func(t *testing.T) {
		spec := c.fromFile()
		spec.VsockOverride = "vsock.sock"
		s.requireFailedLoad(t, shortdir.Make(t), spec)
	})
}

// requireFailedLoad checks that a load is refused and that the VMM then exits by
// itself, with Firecracker's code for it.
func (s suite) requireFailedLoad(t *testing.T, dir string, spec hypervisor.RestoreSpec) {
	t.Helper()
	v, err := firecracker.Start(within(t), firecracker.Options{Binary: s.target.Binary, Dir: dir, DieWithParent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill(within(t))
	load := firecracker.SnapshotLoad{
		SnapshotPath:    spec.StatePath,
		MemBackend:      firecracker.MemoryBackend{BackendType: string(spec.Memory.Backend), BackendPath: spec.Memory.Path},
		TrackDirtyPages: spec.TrackDirtyPages, ResumeVM: spec.Resume,
	}
	for _, o := range spec.NetworkOverrides {
		load.NetworkOverrides = append(load.NetworkOverrides, firecracker.NetworkOverride{IfaceID: o.ID, HostDevName: o.Tap})
	}
	if spec.VsockOverride != "" {
		load.VsockOverride = &firecracker.VsockPath{UDSPath: spec.VsockOverride}
	}
	requireRefused(t, "load", v.API().LoadSnapshot(within(t), load))
	select {
	case <-v.Exited():
	case <-time.After(patience):
		t.Fatal("the VMM did not exit after a load that failed")
	}
	if want := (hypervisor.ExitState{Known: true, Code: 1}); v.ExitState() != want {
		t.Errorf("after a load that failed: %v, want %v", v.ExitState(), want)
	}
}
