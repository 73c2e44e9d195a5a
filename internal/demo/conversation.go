package demo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
)

// conversation types commands into a guest's console and reads its answers.
type conversation struct {
	vmm     hypervisor.VMM
	console *hypervisor.Console
}

// converse begins at what this VMM's guest writes first. The caller closes it.
func converse(vmm hypervisor.VMM) (*conversation, error) {
	console, err := vmm.Console(-1)
	if err != nil {
		return nil, err
	}
	return &conversation{vmm, console}, nil
}

func (c *conversation) close() error { return c.console.Close() }

// ask sends one command and waits for its answer.
func (c *conversation) ask(ctx context.Context, command byte, answer guest.Kind) (guest.Report, error) {
	if err := c.vmm.Send([]byte{command}); err != nil {
		return guest.Report{}, fmt.Errorf("send command %q: %w", command, err)
	}
	return c.await(ctx, answer)
}

// await waits for a report of one kind; another kind is an error.
func (c *conversation) await(ctx context.Context, kind guest.Kind) (guest.Report, error) {
	for {
		line, err := c.line(ctx)
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

// line waits for the next line. When the VMM has ended instead, the error says
// how, and what the VMM said last.
func (c *conversation) line(ctx context.Context) (string, error) {
	line, err := c.console.Next(ctx)
	if errors.Is(err, io.EOF) {
		// A question that cannot be answered any more gets the explanation.
		_, err = c.vmm.State(ctx)
		if err == nil {
			err = fmt.Errorf("the console ended, %v", c.vmm.ExitState())
		}
	}
	return line.Text, err
}
