// Package demo proves on this host what Faultline promises: it boots a guest,
// makes a snapshot of it, restores many forks of the snapshot at the same time, and
// has every fork check every page of its memory, write its own and check again.
//
// # What it runs
//
//	source ──snapshot──▶ sealed memory image + VM state
//	                              │
//	        pager process ◀───────┤ one session per fork, one identity page each
//	              │               │
//	              └──pages──▶ forks, each in a directory of its own
//
// It asks an [instance.Manager] of its own for all of that, as a user asks the
// daemon's; what it does itself is to talk to the guests, to measure, and to kill
// the pager where that is wished. With the backend File there is no pager: each fork
// maps a hard link of the image's one layer. Its forks cannot be told apart by an
// identity page.
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
// them before it returns, also when its context ends. Unlike a daemon's, its VMMs
// die with the process. Everything lies below one data directory. The locks are
// those of the progress display and of the killer of the pager, both leaves.
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
	"github.com/faultline-vm/faultline/instance"
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
	hv := firecracker.New(firecracker.Config{Binary: choice.Binary, DieWithParent: true})
	if result, err = d.manage(ctx, hv); err != nil {
		return nil, err
	}
	result.describe(d.cfg, d.guest.name(), hv.Describe(), choice.Why)
	result.Seconds = time.Since(began).Seconds()
	return result, nil
}

// demo is one run.
type demo struct {
	cfg      Config
	guest    program
	dir      string // the data directory, absolute
	progress *progress
	pager    *pager // nil with the backend File
	manager  *instance.Manager
	// identified tells that every fork finds an identity page.
	identified bool
	repeated   atomic.Int64 // restores that were begun again because the pager died
}

// manage does the demonstration with a pager and a manager of its own.
func (d *demo) manage(ctx context.Context, hv hypervisor.Hypervisor) (result *Result, err error) {
	cfg := instance.Config{
		DataDir: d.dir, Hypervisor: hv, Backend: d.cfg.Backend, MaxConcurrentRestores: d.cfg.Parallel,
	}
	if d.cfg.Backend == instance.Uffd {
		if d.pager, err = startPager(ctx, d.cfg, d.dir); err != nil {
			return nil, fmt.Errorf("start the pager: %w", err)
		}
		defer func() { err = errors.Join(err, d.pager.stop(ctx)) }()
		// It runs already, so that its start is no part of the first fork's restore. There is
		// one version only.
		cfg.Pager = func(context.Context, string) (instance.Pager, error) { return d.pager.Supervisor, nil }
	}
	if d.manager, err = instance.Open(ctx, cfg); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.manager.Close()) }()
	defer func() { err = errors.Join(err, d.endAll(ctx)) }()
	if err := d.makeSource(ctx); err != nil {
		return nil, err
	}
	return d.runForks(ctx)
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
	if d.dir, err = os.MkdirTemp(d.dir, "fl-demo-"); err != nil {
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
