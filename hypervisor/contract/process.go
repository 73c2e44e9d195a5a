package contract

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
)

// testProcess looks at a VMM as a process: its console, its end, and what a
// manager that was restarted can do with it.
func (s suite) testProcess(t *testing.T) {
	w := workload()
	m := s.boot(t, w, nil)
	if err := m.VMM.Send([]byte{guest.CommandPing, 'x', guest.CommandCheck}); err != nil {
		t.Fatal(err)
	}
	m.expectPong()
	if report := m.expect(guest.Check); report.Bad != 0 {
		t.Errorf("the guest found wrong pages: %v", report)
	}

	ref := m.Ref()
	second, err := s.driver().Attach(within(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := second.State(within(t)); err != nil || state != hypervisor.Running {
		t.Errorf("an attached VMM: state %q, error %v", state, err)
	}
	if err := second.Send([]byte{guest.CommandPing}); err != nil {
		t.Fatal(err)
	}
	m.expectPong()
	if _, err := s.driver().Boot(within(t), hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: m.dir}, Kernel: "kernel", VCPUs: 1, MemoryMiB: memoryMiB,
	}); err == nil {
		t.Error("a second VMM was started in the directory of a running one")
	}

	if err := second.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	<-m.Exited()
	if line, err := m.console.Next(within(t)); !errors.Is(err, io.EOF) {
		t.Errorf("console of an ended VMM: line %q, error %v", line.Text, err)
	}
	if _, err := s.driver().Attach(within(t), ref); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("attach to an ended VMM: error %v", err)
	}

	// The directory can be used again: the socket that was left is cleared, and
	// the console goes on behind what the first VMM wrote.
	kernel, bootArgs := s.target.Install(t, m.dir, w, memoryMiB*mebibyte)
	again, err := s.driver().Boot(within(t), hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: m.dir, Input: true}, Kernel: kernel, BootArgs: bootArgs, VCPUs: 1, MemoryMiB: memoryMiB,
	})
	if err != nil {
		t.Fatal(err)
	}
	next := newMachine(t, again, m.dir, w)
	next.expect(guest.Ready)
	next.check()
}
