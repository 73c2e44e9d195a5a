// Package demo proves on this host what Faultline promises: it boots a guest,
// captures it once, restores many forks of the capture at the same time, and has
// every fork check every page of its memory, write its own and check again.
//
// # What it runs
//
//	source VMM ──capture──▶ sealed memory image + VM state
//	                              │
//	        pager process ◀───────┤ one session per fork, one identity page each
//	              │               │
//	              └──pages──▶ fork VMMs, each in a directory of its own
//
// With the File backend there is no pager: each fork maps a hard link of the
// image's one layer. Its forks cannot be told apart by an identity page.
//
// # Phases
//
// All forks are restored, and only when the last of them has answered do they
// begin to check their memory, so that the time to restore does not contain the
// work of siblings that were done earlier. A fork that has passed is paused, not
// ended: memory is measured while all of them exist.
//
// # Ownership
//
// [Run] owns every process, socket and file that it makes and ends or removes
// them before it returns, also when its context ends. Everything lies below one
// data directory in the layout of the project. The only lock is that of the
// progress display, a leaf.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// cleanupTime bounds the work that is done after the context has ended.
const cleanupTime = 20 * time.Second

// Run performs the demonstration. The result is meaningful whenever it is not
// nil: a fork that failed is an entry of its Failures and not an error. An error
// says that the demonstration itself could not be done.
func Run(ctx context.Context, cfg Config) (result *Result, err error) {
	began := time.Now()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	choice, err := firecracker.Choose(ctx, firecracker.Selection{
		Prefer: firecracker.Preference(cfg.Hypervisor), Simulator: cfg.SimulatorBinary,
	})
	if err != nil {
		return nil, err
	}
	d := &demo{cfg: cfg, progress: newProgress(cfg.Progress)}
	defer d.progress.close()
	d.progress.say("hypervisor: %s", choice.Why)
	d.hv = firecracker.New(firecracker.Config{Binary: choice.Binary, DieWithParent: true})
	if d.guest, err = d.cfg.program(choice.Binary); err != nil {
		return nil, err
	}
	if err := d.cfg.checkHugePool(); err != nil {
		return nil, err
	}
	d.progress.say("guest: %d MiB, %s", cfg.Memory/mebibyte, d.guest.name())

	remove, err := d.makeDataDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()

	c, err := d.capture(ctx)
	if err != nil {
		return nil, err
	}
	result, err = d.runForks(ctx, c)
	if err != nil {
		return nil, err
	}
	result.describe(d.cfg, d.guest.name(), d.hv.Describe(), choice.Why)
	result.Seconds = time.Since(began).Seconds()
	return result, nil
}

// demo is one run.
type demo struct {
	cfg      Config
	hv       hypervisor.Hypervisor
	guest    program
	dir      string // the data directory, absolute
	progress *progress
	killer   *killer      // of the pager, or nil
	repeated atomic.Int64 // loads that were begun again because the pager died
}

// makeDataDir makes the data directory and returns what removes it.
func (d *demo) makeDataDir() (remove func() error, err error) {
	if d.cfg.DataDir != "" {
		if d.dir, err = filepath.Abs(d.cfg.DataDir); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w; choose another with --data-dir", err)
		}
	}
	// A directory of our own inside: what was there before stays.
	if d.dir, err = os.MkdirTemp(d.dir, "faultline-demo-"); err != nil {
		return nil, fmt.Errorf("make data directory: %w; choose another with --data-dir", err)
	}
	if d.cfg.Keep {
		d.progress.say("data directory %s is kept", d.dir)
		return func() error { return nil }, nil
	}
	return func() error {
		if err := os.RemoveAll(d.dir); err != nil {
			return fmt.Errorf("remove data directory: %w", err)
		}
		return nil
	}, nil
}

// instanceDir makes the directory of an instance.
func (d *demo) instanceDir(id string) (string, error) {
	dir := filepath.Join(d.dir, "instances", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make instance directory: %w", err)
	}
	return dir, nil
}

// kill ends a VMM, also when the context of the run has ended.
func kill(ctx context.Context, vmm hypervisor.VMM) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return vmm.Kill(ctx)
}
