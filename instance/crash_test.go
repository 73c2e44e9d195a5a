package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// victimVariable makes the test binary a manager that runs one scenario, by number,
// and dies at the failpoint that the environment sets.
const victimVariable = "FAULTLINE_TEST_VICTIM"

const (
	victimDirVariable = "FAULTLINE_TEST_VICTIM_DIR"
	victimBinVariable = "FAULTLINE_TEST_VICTIM_BIN"
	// Not failpoint.Env, which the pager would find as well.
	victimPointVariable = "FAULTLINE_TEST_VICTIM_POINT"
)

func victim() int {
	err := func() error {
		ctx := context.Background()
		dir, bin := os.Getenv(victimDirVariable), os.Getenv(victimBinVariable)
		number, err := strconv.Atoi(os.Getenv(victimVariable))
		if err != nil {
			return err
		}
		set, err := failpoint.Parse(os.Getenv(victimPointVariable), Failpoints()...)
		if err != nil {
			return err
		}
		binary, err := firecracker.Probe(ctx, filepath.Join(bin, firecracker.Simulator))
		if err != nil {
			return err
		}
		m, err := Open(ctx, siteConfig(dir, bin, firecracker.New(firecracker.Config{Binary: binary})))
		if err != nil {
			return err
		}
		m.cfg.Failpoints = set
		return errors.Join(scenarios[number].run(ctx, m), m.Close())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledAtEveryStep kills a manager with SIGKILL in front of and behind every step
// of every operation. The next one finds the state before or the state after, with
// every guest right, and nothing else.
func TestKilledAtEveryStep(t *testing.T) {
	for number, c := range scenarios {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testKilled(t, number, c)
		})
	}
}

func testKilled(t *testing.T, number int, c scenario) {
	s := newSite(t)
	fresh := true
	for i, step := range operationSteps[c.op] {
		points := []string{point(c.op, step)}
		if i == len(operationSteps[c.op])-1 {
			points = append(points, points[0]+behind)
		}
		for _, at := range points {
			if testing.Short() && (number+i)%4 != 0 {
				continue // under the race detector, where it takes long
			}
			if fresh {
				m := s.reopen(nil)
				s.empty(m)
				c.setup(s, m)
				if err := m.Close(); err != nil {
					t.Fatal(err)
				}
			}
			fresh = s.killAt(number, at)
			if t.Failed() {
				t.Fatalf("%s, killed at %s", c.name, at)
			}
		}
	}
}

// killAt runs a scenario in a process that is killed at a failpoint, and reports
// whether the scenario came to its end nevertheless.
func (s *site) killAt(number int, at string) (done bool) {
	s.t.Helper()
	c := scenarios[number]
	bin, err := binaries()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(within(s.t), os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"="+strconv.Itoa(number), victimDirVariable+"="+s.dir, victimBinVariable+"="+bin,
		victimPointVariable+"="+at+"=crash")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !killed {
		s.t.Fatalf("%v: %s", err, out)
	}
	m := s.reopen(nil)
	defer func() {
		if err := m.Close(); err != nil {
			s.t.Error(err)
		}
	}()
	before, after := c.is(m, false), c.is(m, true)
	// Of several forks, each is there or not.
	if !before && !after && c.op == OpFork {
		before = true
		for name, state := range states(m) {
			before = before && (c.before[name] == state || c.after[name] == state)
		}
	}
	if !before && !after {
		s.t.Errorf("the next manager finds %v %v: %+v", states(m), snapshotNames(m), m.List())
	}
	s.audit(m)
	s.verify(m)
	return !c.is(m, false) || !killed
}

// reopen opens a Manager that the caller closes.
func (s *site) reopen(set *failpoint.Set) *Manager {
	s.t.Helper()
	s.cfg.Failpoints = set
	m, err := Open(context.Background(), s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// supervised are the pagers of a site. Of other versions than the own one a test puts
// the programs into bin.
func supervised(dir, bin string) func(context.Context, string) (Pager, error) {
	return Supervised(supervisor.Config{
		Manager: supervisor.Child,
		Options: supervisor.Options{DataDir: filepath.Join(dir, "data"), CacheMaxBytes: pager.MinCacheBytes},
	}, func(_ context.Context, version string) (string, error) {
		if version == pager.Version() {
			return filepath.Join(bin, "faultline-pager"), nil
		}
		return filepath.Join(bin, "faultline-pager-"+version), nil
	})
}
