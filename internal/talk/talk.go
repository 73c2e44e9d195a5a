// Package talk types commands into the console of a guest of package guest, and
// reads its answers, or the beats of one of package guest/linux. It is for those who drive such guests: the demonstration,
// benchmarks and tests.
//
// A [Talk] owns the open console and nothing else. It takes no locks; one goroutine
// uses it at a time.
package talk

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
)

// Machine is what a Talk needs of a microVM. A hypervisor.VMM has it.
type Machine interface {
	// Console opens the guest's output where its VMM began, for a negative offset.
	Console(offset int64) (*hypervisor.Console, error)
	// Send types into the guest's console.
	Send(input []byte) error
	// State is asked when the console has ended. Its error then says why.
	State(ctx context.Context) (hypervisor.State, error)
}

// Talk is a conversation with the guest of one microVM.
type Talk struct {
	machine Machine
	console *hypervisor.Console
}

// Open begins at what the guest of this VMM writes first. The VMM must have been
// started with input.
func Open(machine Machine) (*Talk, error) {
	console, err := machine.Console(-1)
	if err != nil {
		return nil, err
	}
	return &Talk{machine, console}, nil
}

// Close ends the conversation and leaves the microVM alone.
func (t *Talk) Close() error { return t.console.Close() }

// Line waits for the next line, of whatever kind. When the VMM has ended instead,
// the error says how.
func (t *Talk) Line(ctx context.Context) (string, error) {
	line, err := t.console.Next(ctx)
	if errors.Is(err, io.EOF) {
		var state hypervisor.State
		if state, err = t.machine.State(ctx); err == nil {
			err = fmt.Errorf("the console ended, and the microVM is %s", state)
		}
	}
	return line.Text, err
}

// Ask sends one command and waits for its answer.
func (t *Talk) Ask(ctx context.Context, command byte, answer guest.Kind) (guest.Report, error) {
	if err := t.machine.Send([]byte{command}); err != nil {
		return guest.Report{}, fmt.Errorf("send command %q: %w", command, err)
	}
	return t.Await(ctx, answer)
}

// Await waits for the next report, which must be of that kind.
func (t *Talk) Await(ctx context.Context, kind guest.Kind) (guest.Report, error) {
	for {
		line, err := t.Line(ctx)
		if err != nil {
			return guest.Report{}, fmt.Errorf("waiting for the guest's %s: %w", kind, err)
		}
		report, ours, err := guest.ParseReport(line)
		switch {
		case err != nil:
			return guest.Report{}, err
		case ours && report.Kind != kind:
			return guest.Report{}, fmt.Errorf("the guest said %q instead of %s", line, kind)
		case ours:
			return report, nil
		}
	}
}

// Check has the guest compare its memory. It is an error when a page is wrong.
func (t *Talk) Check(ctx context.Context) (guest.Report, error) {
	r, err := t.Ask(ctx, guest.CommandCheck, guest.Check)
	if err == nil && r.Bad > 0 {
		err = fmt.Errorf("the guest found %d of its %d pages wrong, page %d first", r.Bad, r.Pages, r.First)
	}
	return r, err
}

// Write has the guest rewrite a class of its pages.
func (t *Talk) Write(ctx context.Context) (guest.Report, error) {
	return t.Ask(ctx, guest.CommandWrite, guest.Write)
}

// Settle waits for the guest's answer to a ping, and passes over what it says before:
// the answers to commands that were under way when it was captured, which its forks
// give as well. Of the checks among them the result has the wrong pages.
func (t *Talk) Settle(ctx context.Context) (guest.Report, error) {
	if err := t.machine.Send([]byte{guest.CommandPing}); err != nil {
		return guest.Report{}, fmt.Errorf("send command %q: %w", guest.CommandPing, err)
	}
	var bad uint64
	first := guest.NoPage
	for {
		line, err := t.Line(ctx)
		if err != nil {
			return guest.Report{}, fmt.Errorf("waiting for the guest's %s: %w", guest.Pong, err)
		}
		report, ours, err := guest.ParseReport(line)
		if err != nil {
			return guest.Report{}, err
		}
		if ours {
			bad, first = bad+report.Bad, min(first, report.First)
		}
		if ours && report.Kind == guest.Pong {
			report.Bad, report.First = bad, first
			return report, nil
		}
	}
}
