// Package kernel emits the freestanding program that behaves, inside a real
// Firecracker, as package guest describes: a 64-bit ELF to be given as
// kernel_image_path. No drive, network, initrd or boot argument is needed.
//
// The program runs at the highest privilege in long mode, on one vCPU, in the
// address space that Firecracker's 64-bit Linux boot protocol sets up (the first
// GiB mapped to itself). It is plain loads, stores, branches and multiplications,
// because hosts without hardware virtualisation emulate it one instruction at a
// time: no vector registers, no string instructions. While it waits for a command
// it halts until the serial port interrupts it, so that an idle guest costs its
// host nothing and dirties no page.
//
// The program writes its reports byte by byte, and Firecracker logs to its stdout
// unless told otherwise: give it a --log-path, or log lines will land within
// reports. A capture in the middle of a command is fine, its forks go on with it;
// a command that waits in the serial port at a capture may be obeyed by the forks
// as well as by the source, because Firecracker saves that port's buffer.
//
// Besides the workload's pages it writes only its page of variables and stack, the
// seed table at guest.StateAddress, and the page tables that it adds: the capture
// of a guest is no larger than its workload makes it.
//
// The package emits bytes and is the same on every architecture. It owns no
// resources and has no state.
package kernel

import (
	"errors"
	"fmt"

	"github.com/faultline-vm/faultline/guest"
)

// MaxEnd is the address that a workload may reach up to: on x86-64 Firecracker
// leaves 3 GiB to 4 GiB to devices, and the memory beyond is not where the
// workload's linear addresses would look for it.
const MaxEnd = 3 << 30

// Options are facts about the host that the program cannot find out by itself.
type Options struct {
	// TSCHz is how often the guest's cycle counter ticks per second. Only a
	// workload with a Rate needs it; see [TSCHz].
	TSCHz uint64
}

// Build returns the program for a guest of memory bytes as an ELF file. It
// refuses workloads that the program cannot run, and says everything that is
// wrong with them at once.
func Build(w guest.Workload, memory uint64, opts Options) ([]byte, error) {
	code, err := assemble(w, memory, opts)
	if err != nil {
		return nil, err
	}
	return wrapELF(code, guest.EntryAddress)
}

func assemble(w guest.Workload, memory uint64, opts Options) ([]byte, error) {
	if err := validate(w, memory, opts); err != nil {
		return nil, fmt.Errorf("freestanding guest: %w", err)
	}
	p := &program{assembler: newAssembler(guest.EntryAddress), w: w}
	if w.Rate > 0 {
		p.interval = max(1, opts.TSCHz/w.Rate)
	}
	p.emit()
	code, err := p.link()
	if err != nil {
		return nil, fmt.Errorf("freestanding guest: %w", err)
	}
	if len(code) > dataAddress-guest.EntryAddress {
		return nil, fmt.Errorf("freestanding guest: %d bytes of code overlap the data page", len(code))
	}
	return code, nil
}

func validate(w guest.Workload, memory uint64, opts Options) error {
	if err := w.Validate(memory); err != nil {
		return err
	}
	var errs []error
	if w.End() > MaxEnd {
		errs = append(errs, fmt.Errorf("the workload ends at %d MiB, above the 3072 MiB where x86-64 leaves addresses to devices: use fewer pages or a smaller spread",
			(w.End()+1<<20-1)>>20))
	}
	if w.Free != 0 {
		errs = append(errs, errors.New("free pages need a balloon driver, which this guest does not have: set free to 0, or use the simulator or a Linux guest"))
	}
	if w.Rate > 0 && opts.TSCHz == 0 {
		errs = append(errs, errors.New("a rate needs the frequency of the cycle counter: set TSCHz, or set rate to 0"))
	}
	return errors.Join(errs...)
}
