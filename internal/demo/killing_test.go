package demo

import (
	"context"
	"os/exec"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

func TestKillerKillsAProcessOnce(t *testing.T) {
	victim := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var k killer
	k.kill(victim.Process.Pid)
	// It is not reaped yet: a signal to it would succeed once more.
	k.kill(victim.Process.Pid)
	if k.count() != 1 || k.victim() != victim.Process.Pid {
		t.Errorf("%d kills, of process %d last", k.count(), k.victim())
	}
	if err := victim.Wait(); err == nil || victim.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the victim ended with %v", err)
	}
	k.kill(victim.Process.Pid)
	if (*killer)(nil).count() != 0 || k.count() != 1 {
		t.Errorf("%d kills of a process that is gone", k.count())
	}
}

// idle is a hypervisor that nobody asks to run anything.
type idle struct{ hypervisor.Hypervisor }

func (idle) Describe() hypervisor.Description { return hypervisor.Description{Name: "fcsim"} }

// TestPersist asks about a fork that does not exist any more, so that nothing is waited for.
func TestPersist(t *testing.T) {
	manager, err := instance.Open(t.Context(), instance.Config{DataDir: t.TempDir(), Hypervisor: idle{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := manager.Close(); err != nil {
			t.Error(err)
		}
	})
	f := newFork(1)
	refuse := problem.New(409, instance.CodeWrongState, "", "it is unknown")
	calls := 0
	asked := func(errs ...error) error {
		calls = 0
		return (&demo{manager: manager, pager: &pager{killer: &killer{}}}).persist(t.Context(), f,
			func(context.Context, string) (instance.Instance, error) {
				calls++
				return instance.Instance{}, errs[calls-1]
			})
	}
	if err := asked(nil); err != nil || calls != 1 {
		t.Errorf("what succeeds at once: %v after %d calls", err, calls)
	}
	broken := problem.New(500, instance.CodeStepFailed, "", "it is broken")
	if err := asked(broken, nil); err != broken || calls != 1 {
		t.Errorf("what fails: %v after %d calls", err, calls)
	}
	// There is no such instance any more, and nothing to wait for.
	if err := asked(refuse, nil); err != refuse || calls != 1 {
		t.Errorf("of an instance that is gone: %v after %d calls", err, calls)
	}
}
