// Package faulter runs a child process whose memory faults, for tests and
// benchmarks of whoever serves the faults.
//
// A handler of userfaultfd cannot be tested in the process whose memory faults: a
// goroutine that waits in a fault holds its P, which stops the collector and with
// it the handler. The child is therefore the running binary once more, started
// with an environment variable that [Main] looks for. It maps memory, registers
// it the way Firecracker does, and then obeys its parent: touch these pages,
// read, write, remove, make the handshake with a pager.
//
// # Ownership
//
// A [Process] belongs to whoever started it and ends with [Process.Close] or
// [Process.Kill]. When the parent dies the child ends by itself, because its
// standard input does. The child keeps its userfaultfd and its handshake
// connections for life, as Firecracker does, until told otherwise.
//
// # Discipline of the child
//
// Its collector is off, so that nothing stops the world while a thread waits in
// a fault. It has more Ps than [MaxThreads], so that the one that reads requests
// always finds one. Asynchronous preemption is off: a signal interrupts the wait
// in a fault, and the thread would fault, and be reported, a second time.
//
// # Locks
//
// Process.writing covers the request stream, Process.mu the table of calls.
// Neither is held while the other is taken, nor while waiting for the child.
package faulter

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/faultline-vm/faultline/uffd"
)

// environment is the variable that makes [Main] the child.
const environment = "FAULTLINE_FAULTER_CHILD"

// MaxThreads is how many threads of a child may wait in faults at once.
const MaxThreads = 48

// processors is the child's GOMAXPROCS.
const processors = MaxThreads + 16

// ErrRefused is wrapped by the error of [Start] where the child may not make a
// userfaultfd at all; the text names the remedy.
var ErrRefused = errors.New("userfaultfd is not permitted")

// ErrExited is wrapped by the errors of calls that the child did not answer
// because it has exited.
var ErrExited = errors.New("faulting process has exited")

// Region is one registered mapping of the child.
type Region struct {
	// Size in bytes, a multiple of PageSize.
	Size uint64
	// PageSize in bytes: 4096, or 2 MiB for huge pages, which the host's pool
	// must have. 0 means 4096.
	PageSize uint64
	// Address is where the child mapped it. Set by Start.
	Address uint64
	// Offset is where it begins in the memory file: the sum of the sizes
	// before it. Set by Start.
	Offset uint64
}

// Config describes a child.
type Config struct {
	// Regions are mapped with inaccessible memory between them. At least one.
	Regions []Region
	// UserModeOnly keeps the child from trying for a userfaultfd that sees the
	// kernel's faults too. It makes no difference to what the child does: all
	// its accesses are user mode loads and stores.
	UserModeOnly bool
	// Features are asked for besides UFFD_FEATURE_EVENT_REMOVE, which is what
	// Firecracker asks for.
	Features uffd.Features
	// Mode of registration; 0 means UFFDIO_REGISTER_MODE_MISSING, which is
	// Firecracker's.
	Mode uffd.RegisterMode
	// Stderr receives the child's complaints; nil means os.Stderr.
	Stderr io.Writer
}

// normalized returns the configuration with its defaults filled in.
func (c Config) normalized() (Config, error) {
	if len(c.Regions) == 0 {
		return c, errors.New("faulter: no regions; give at least one")
	}
	regions := make([]Region, len(c.Regions))
	var offset uint64
	for i, r := range c.Regions {
		if r.PageSize == 0 {
			r.PageSize = smallPage
		}
		if r.PageSize != smallPage && r.PageSize != hugePage {
			return c, fmt.Errorf("faulter: page size %d of region %d; use %d or %d", r.PageSize, i, smallPage, hugePage)
		}
		if r.Size == 0 || r.Size%r.PageSize != 0 {
			return c, fmt.Errorf("faulter: size %d of region %d; use a multiple of its page size %d", r.Size, i, r.PageSize)
		}
		r.Address, r.Offset = 0, offset
		offset += r.Size
		regions[i] = r
	}
	c.Regions = regions
	if c.Mode == 0 {
		c.Mode = uffd.UFFDIO_REGISTER_MODE_MISSING
	}
	c.Features |= uffd.UFFD_FEATURE_EVENT_REMOVE
	return c, nil
}

// Main must be the first call of TestMain or main. In a child it does the
// child's work and does not return; anywhere else it does nothing.
func Main() {
	if os.Getenv(environment) == "" {
		return
	}
	if err := runChild(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "faulter:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
