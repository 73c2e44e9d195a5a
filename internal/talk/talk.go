// Package talk types commands into the console of a guest of package guest, and
// reads its answers. It is for those who drive such guests: benchmarks and tests.
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

// Talk is a conversation with the guest of one VMM.
type Talk struct {
	vmm     hypervisor.VMM
	console *hypervisor.Console
}

// Open begins at what this VMM's guest writes first. The VMM must have been started
// with input.
func Open(vmm hypervisor.VMM) (*Talk, error) {
	console, err := vmm.Console(-1)
	if err != nil {
		return nil, err
	}
	return &Talk{vmm, console}, nil
}

// Close ends the conversation and leaves the VMM alone.
func (t *Talk) Close() error { return t.console.Close() }

// Ask sends one command and waits for its answer.
func (t *Talk) Ask(ctx context.Context, command byte, answer guest.Kind) (guest.Report, error) {
	if err := t.vmm.Send([]byte{command}); err != nil {
		return guest.Report{}, fmt.Errorf("send command %q: %w", command, err)
	}
	return t.Await(ctx, answer)
}

// Await waits for the next report, which must be of that kind.
func (t *Talk) Await(ctx context.Context, kind guest.Kind) (guest.Report, error) {
	for {
		line, err := t.console.Next(ctx)
		if err != nil {
			return guest.Report{}, fmt.Errorf("waiting for the guest's %s: %w", kind, t.explain(ctx, err))
		}
		report, ours, err := guest.ParseReport(line.Text)
		switch {
		case err != nil:
			return guest.Report{}, err
		case ours && report.Kind != kind:
			return guest.Report{}, fmt.Errorf("the guest said %q instead of %s", line.Text, kind)
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

// explain says how the VMM ended where that is why its console did.
func (t *Talk) explain(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	// A question that cannot be answered any more gets the explanation.
	if _, serr := t.vmm.State(ctx); serr != nil {
		return serr
	}
	return fmt.Errorf("the console ended, %v", t.vmm.ExitState())
}
