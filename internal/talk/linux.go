package talk

import (
	"context"
	"fmt"

	"github.com/faultline-vm/faultline/guest/linux"
)

// Beating waits until a guest of package guest/linux has filled its memory and begins
// to beat.
func (t *Talk) Beating(ctx context.Context) error {
	for {
		line, err := t.Line(ctx)
		if err != nil {
			return fmt.Errorf("waiting for READY: %w", err)
		}
		if linux.Ready(line) {
			return nil
		}
	}
}

// Beat waits for the next beat of a guest of package guest/linux.
func (t *Talk) Beat(ctx context.Context) (linux.Beat, error) {
	for {
		line, err := t.Line(ctx)
		if err != nil {
			return linux.Beat{}, fmt.Errorf("waiting for a beat: %w", err)
		}
		if beat, found, err := linux.ParseBeat(line); found || err != nil {
			return beat, err
		}
	}
}
