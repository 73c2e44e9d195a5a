package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/pager/control"
)

func valid() Config {
	return Config{Forks: 1, Parallel: 1, Memory: 64 * mebibyte, WorkingSet: mebibyte, Backend: instance.Uffd}
}

func TestConfigValidate(t *testing.T) {
	if err := valid().validate(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*Config)
		says   string
	}{
		"no forks":           {func(c *Config) { c.Forks = 0 }, "0 forks"},
		"nothing at a time":  {func(c *Config) { c.Parallel = -1 }, "-1 forks at the same time"},
		"no memory":          {func(c *Config) { c.Memory = 0 }, "whole MiB"},
		"half a MiB":         {func(c *Config) { c.Memory = 3 * mebibyte / 2 }, "whole MiB"},
		"half a page":        {func(c *Config) { c.WorkingSet = 2048 }, "whole pages"},
		"unknown backend":    {func(c *Config) { c.Backend = "tape" }, `"tape"`},
		"initrd alone":       {func(c *Config) { c.Linux.Initrd = "initrd" }, "name the kernel too"},
		"huge pages of file": {func(c *Config) { c.Backend, c.HugePages = instance.File, true }, "uffd"},
	}
	for name, test := range tests {
		c := valid()
		test.change(&c)
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v does not say %q", name, err, test.says)
		}
	}
}

func TestProgram(t *testing.T) {
	simulator := firecracker.Binary{Name: firecracker.Simulator}
	c := valid()
	made, err := c.program(simulator)
	if err != nil {
		t.Fatal(err)
	}
	if w := made.(workloadGuest).workload; w.Pages != 256 || w.Words != 512 {
		t.Errorf("workload %+v: want 256 pages, all of their words", w)
	}
	c.WorkingSet = 0
	if _, err := c.program(simulator); err == nil || c.WorkingSet != usualWorkingSet {
		t.Errorf("in 64 MiB the usual working set became %d bytes, and that was taken", c.WorkingSet)
	}
	c.WorkingSet = c.Memory
	if _, err := c.program(simulator); err == nil {
		t.Error("a working set as large as the guest was taken")
	}
	c = valid()
	c.Linux.Kernel = "vmlinux"
	if _, err := c.program(simulator); err == nil {
		t.Error("a kernel was taken for the simulator")
	}
}

func TestHugePagesNeeded(t *testing.T) {
	c := Config{Forks: 5, Memory: 64 * mebibyte, WorkingSet: 8 * mebibyte}
	if got := c.hugePagesNeeded(); got != 5*(4+extraHuge) {
		t.Errorf("forks need %d pages", got)
	}
	c.Forks = 1
	if got := c.hugePagesNeeded(); got != 32 {
		t.Errorf("the source's capture needs %d pages, all of its memory is 32", got)
	}
}

func TestInParallelKeepsItsLimit(t *testing.T) {
	var running, most, calls atomic.Int64
	forks := make([]*fork, 50)
	inParallel(3, forks, func(*fork) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		running.Add(-1)
		calls.Add(1)
	})
	if calls.Load() != 50 || most.Load() > 3 {
		t.Errorf("%d calls, up to %d at the same time", calls.Load(), most.Load())
	}
}

func TestEach(t *testing.T) {
	d := &demo{cfg: valid(), progress: newProgress(&bytes.Buffer{})}
	forks := []*fork{newFork(1), newFork(2), newFork(3)}
	broken := errors.New("broken")
	d.each(t.Context(), "", forks, func(f *fork) error {
		if f.name == "fork-002" {
			return broken
		}
		return nil
	})
	var went []string
	d.each(t.Context(), "", forks, func(f *fork) error {
		went = append(went, f.name)
		return nil
	})
	if len(went) != 2 || went[0] != "fork-001" || went[1] != "fork-003" || forks[1].err != broken {
		t.Errorf("after fork 2 failed with %v, forks %q went on", forks[1].err, went)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	d.each(ctx, "", forks[:1], func(*fork) error {
		t.Error("a step was begun after the context had ended")
		return nil
	})
	if err := interrupted(ctx, forks[:1]); err != broken {
		t.Errorf("interrupted by %v", err)
	}
}

func TestSummarize(t *testing.T) {
	d := &demo{cfg: valid()}
	forks := []*fork{newFork(1), newFork(2), newFork(3), newFork(4)}
	for i, f := range forks {
		f.ready, f.load, f.memory = time.Second, time.Millisecond, 10
		f.verdict = verdict{right: 100, seed: uint64(i + 1)}
	}
	stats := control.PagerStats{Total: control.Stats{Faults: 400, ReadBytes: 4096}}
	r := d.summarize(forks, stats)
	if !r.OK() || r.PagesVerified != 400 || r.Faults != 400 || r.ImageBytesRead != 4096 || r.ForkMemoryBytes != 10 || r.RestoreMS.P99 != 1000 {
		t.Errorf("all right: %+v", r)
	}
	encoded, err := json.Marshal(r)
	if err != nil || !bytes.Contains(encoded, []byte(`"failures":[]`)) {
		t.Errorf("JSON %s, %v", encoded, err)
	}

	forks[1].verdict.seed = 4
	forks[2].err = errors.New("it is broken")
	forks[2].verdict.wrong = 5
	r = d.summarize(forks, stats)
	if r.OK() || r.PagesMismatched != 5 || len(r.Failures) != 2 || !strings.Contains(r.Failures[1], "same pages as fork-002") {
		t.Errorf("two failures: %+v", r)
	}
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil || !strings.Contains(table.String(), "fork-003: it is broken") {
		t.Errorf("table %s, %v", table.String(), err)
	}
	if (&Result{}).OK() {
		t.Error("nothing verified is not OK")
	}
	if (&Result{PagesVerified: 1, PagerDeaths: 1}).OK() {
		t.Error("a pager that dies by itself is not OK")
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.say("begin %d", 1)
	for n := 1; n <= 9; n++ {
		p.count("restored", n, 9)
	}
	p.close()
	if want := "begin 1\nrestored 3 of 9\nrestored 5 of 9\nrestored 7 of 9\nrestored 9 of 9\n"; out.String() != want {
		t.Errorf("plain output %q, want %q", out.String(), want)
	}

	out.Reset()
	p.terminal = true
	p.count("restored", 1, 2)
	p.say("fork-001: broken")
	p.count("restored", 2, 2)
	p.close()
	if want := "\r\x1b[Krestored 1 of 2\nfork-001: broken\n\r\x1b[Krestored 2 of 2\n"; out.String() != want {
		t.Errorf("terminal output %q, want %q", out.String(), want)
	}
}
