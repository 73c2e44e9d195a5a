// Package contract is the suite of tests that a real Firecracker and its simulator
// fcsim must both pass. It states what the rest of Faultline relies on: of the API,
// of the files of a snapshot, of the userfaultfd handshake, of what happens to a
// guest when its pager is gone. Where the two differ, the simulator is wrong.
//
// A test drives it with [Run] and a [Target]. The suite starts VMMs of its own, in
// directories of its own, and ends them; nothing of it runs at the same time as
// another part of it. It serves memory with a pager of its own, which is as plain
// as one can be: the pager that Faultline ships is judged elsewhere, by the same
// guests.
//
// The guest is the one of package guest: it knows what each of its pages must hold
// and checks them itself. The suite asks for small ones, because hosts without
// hardware virtualisation emulate a real guest at a few million instructions per
// second.
package contract

import (
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// Target is a program under test.
type Target struct {
	// Binary is the program, as firecracker.Probe returned it.
	Binary firecracker.Binary
	// Install puts a kernel into dir that runs w in a guest of memory bytes. It
	// returns the kernel's path and its boot arguments.
	Install func(t *testing.T, dir string, w guest.Workload, memory uint64) (kernel, bootArgs string)
	// LinuxBalloon is set where the guest of Install has no balloon driver: a
	// Linux guest is then used for what is about the balloon, where there is one.
	LinuxBalloon bool
}

// Run runs the suite.
func Run(t *testing.T, target Target) {
	s := suite{target}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"API", s.testAPI},
		{"RelativePaths", s.testRelativePaths},
		{"SnapshotFiles", s.testSnapshotFiles},
		{"FailedLoad", s.testFailedLoad},
		{"Load", s.testLoad},
		{"Handshake", s.testHandshake},
		{"Diff", s.testDiff},
		{"PagerGone", s.testPagerGone},
		{"Balloon", s.testBalloon},
		{"Process", s.testProcess},
	} {
		t.Run(part.name, part.run)
	}
}

// suite holds what its parts share: nothing but the target.
type suite struct{ target Target }
