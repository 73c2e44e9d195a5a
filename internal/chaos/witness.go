package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/pager/control"
)

// witness is a process whose memory the first pager serves and which touches one
// absent page after the other, as long as the cell lasts.
type witness struct {
	process *faulter.Process
	source  *source
	stop    chan struct{}
	done    chan struct{}
	worst   time.Duration // read these after done
	touched int
	err     error
}

const witnessID = "witness"

// witnessPause is the time between two of its accesses.
const witnessPause = time.Millisecond

// attachWitness starts it. Its pages are of 4 KiB whatever the guests' are.
func (t *trial) attachWitness(ctx context.Context) (*witness, error) {
	p, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: t.source.size}}})
	if err != nil {
		return nil, err
	}
	at := t.places[0]
	s, err := at.create(ctx, control.SessionRequest{ID: witnessID, Image: t.source.capture.ManifestPath()})
	if err == nil {
		err = p.Handshake(s.Socket)
	}
	for err == nil && s.State != control.Serving {
		if s, err = at.Session(ctx, witnessID); err == nil {
			err = sleep(ctx, patience)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the witness: %w", err), p.Kill())
	}
	w := &witness{process: p, source: t.source, stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w, nil
}

func (w *witness) run() {
	defer close(w.done)
	pages := w.source.size / guest.PageSize
	step := guest.ScatterStep(pages)
	for page := uint64(0); ; page = (page + step) % pages {
		select {
		case <-w.stop:
			return
		case <-time.After(witnessPause):
		}
		latencies, err := w.process.Touch(0, []uint64{page * guest.PageSize}, false)
		if err != nil {
			w.err = err
			return
		}
		w.worst = max(w.worst, latencies[0])
		w.touched++
	}
}

// testify ends the touching, and compares all of the witness's memory with the image.
func (w *witness) testify(ctx context.Context) error {
	close(w.stop)
	sum := w.process.StartSum(0, w.source.size)
	for _, done := range []<-chan struct{}{w.done, sum.Done()} {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("the witness waits for a page: %w", context.Cause(ctx))
		}
	}
	got, err := sum.Wait()
	switch {
	case errors.Join(w.err, err) != nil:
		return fmt.Errorf("the witness: %w", errors.Join(w.err, err))
	case got != w.source.sum:
		return wrongPages(1, "the witness's memory is not the image's")
	}
	return nil
}
