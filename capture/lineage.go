package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/faultline-vm/faultline/memimage"
)

// Errors of a [Lineage].
var (
	// ErrBusy: another capture of the same VMM is under way.
	ErrBusy = errors.New("a capture of this VMM is under way")
	// ErrHeld: a capture was taken and could not be published yet.
	ErrHeld = errors.New("the capture is held: make room and try again, or give it up")
	// ErrNoneHeld: there is nothing to try again.
	ErrNoneHeld = errors.New("no capture is held")
)

// Lineage is what the next capture of one running VMM may build upon. It belongs
// to whoever manages the instance, begins with the VMM and ends with it: a restored
// instance gets a new one. Its methods are safe for concurrent use.
//
//	unbased ──capture published──▶ based ──capture published──▶ based
//	unbased, based ──the VMM was asked for a snapshot, and no capture came of it──▶ unbased
//	unbased, based ──it wrote one that cannot be published for now──▶ held
//	held ──tried again──▶ based      held ──given up──▶ unbased
//
// Based, the next capture is a diff over the base; else it is full, because the VMM
// forgets which pages are dirty whenever it has written a snapshot, and cannot be
// asked whether it has. Held, the next capture first publishes the one before.
type Lineage struct {
	tracking bool

	// slot is held during a capture, and only ever tried. Who holds it is the only
	// one to write the fields below.
	slot sync.Mutex
	// mu guards the fields below against readers. It is a leaf, held for a moment.
	mu   sync.Mutex
	base *Capture
	why  string // why there is no base
	held *pending
	// dirty is how many bytes the last diff had, a guess for the next.
	dirty uint64
}

// Booted returns the lineage of a VMM that has booted its guest. Tracking tells
// whether it tracks dirty pages.
func Booted(tracking bool) *Lineage {
	return &Lineage{tracking: tracking, why: "it is the first of a guest that was booted"}
}

// Restored returns the lineage of a VMM that was restored from c.
func Restored(c Capture, tracking bool) *Lineage { return &Lineage{tracking: tracking, base: &c} }

// Base returns the capture that the next one would be a diff over.
func (l *Lineage) Base() (Capture, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base == nil || !l.tracking || l.held != nil {
		return Capture{}, false
	}
	return *l.base, true
}

// Held returns the id of the capture that could not be published yet.
func (l *Lineage) Held() (id string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return "", false
	}
	return l.held.record.ID, true
}

// Retry publishes the capture that is held. The error is [ErrHeld] where it still
// cannot be and may be tried again, and [ErrNoneHeld] where there is none; after
// any other it is lost, and the next capture is full.
func (l *Lineage) Retry(ctx context.Context) (Result, error) {
	if !l.slot.TryLock() {
		return Result{}, ErrBusy
	}
	defer l.slot.Unlock()
	if l.held == nil {
		return Result{}, ErrNoneHeld
	}
	return l.settle(ctx, l.held)
}

// GiveUp drops the capture that is held, and what it takes on disk and in memory.
// The next capture is full. Without one it does nothing.
func (l *Lineage) GiveUp() error {
	if !l.slot.TryLock() {
		return ErrBusy
	}
	defer l.slot.Unlock()
	if l.held == nil {
		return nil
	}
	p := l.held
	l.lose("the capture before was given up")
	return p.discard()
}

// settle publishes p and makes it the base. Where that fails for a reason that may
// pass, p is held; else it is dropped. The slot is held.
func (l *Lineage) settle(ctx context.Context, p *pending) (Result, error) {
	result, err := p.publish(ctx)
	switch {
	case err == nil:
		dirty := l.dirty
		if p.record.Kind == memimage.Diff {
			dirty = result.Pages.Data * memimage.PageSize
		}
		l.set(&result.Capture, nil, "", dirty)
		return result, nil
	case mayPass(err):
		l.set(nil, p, "", l.dirty)
		return Result{}, fmt.Errorf("capture %s: %w: %w", p.record.ID, ErrHeld, err)
	default:
		l.lose(fmt.Sprintf("the capture before could not be published: %v", err))
		return Result{}, fmt.Errorf("capture %s: %w", p.record.ID, errors.Join(err, p.discard()))
	}
}

// lose forgets the base: which pages are dirty is no longer known.
func (l *Lineage) lose(why string) { l.set(nil, nil, why, l.dirty) }

func (l *Lineage) set(base *Capture, held *pending, why string, dirty uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base, l.held, l.why, l.dirty = base, held, why, dirty
}

// choose returns the kind of the next capture, and why it is not a diff.
func (l *Lineage) choose() (memimage.Kind, string) {
	switch {
	case !l.tracking:
		return memimage.Full, "the VMM does not track dirty pages"
	case l.base == nil:
		return memimage.Full, l.why
	default:
		return memimage.Diff, ""
	}
}

// mayPass tells whether an error is about what a host has too little of at times,
// or about the caller's own patience. Others would come again.
func mayPass(err error) bool {
	for _, passing := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
