package pager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// errDetached is the cause of a session whose guest needs no pager any more.
var errDetached = errors.New("detached: all of the guest's memory is in the guest")

// Detach gives the guest every page that it has not touched yet, unregisters its
// memory, and ends the session while the guest runs on. Demand faults go first. When
// ctx ends before, the session goes on as if nothing had happened. Errors are problems.
//
// Only pages with content are installed: once the memory is unregistered, the kernel
// gives zeros for what is absent, which is right for the image's zero pages and for
// what the guest gave away.
func (p *Pager) Detach(ctx context.Context, id string) (control.Session, error) {
	s, err := p.session(id)
	if err != nil {
		return control.Session{}, err
	}
	if err := s.beginPopulating(); err != nil {
		return control.Session{}, err
	}
	if err = s.populate(ctx); err == nil {
		// From here on a pager that adopts the session ends the detach: memory of
		// which a part is unregistered cannot be served any more.
		err = s.journal.write(populatedFile, struct{}{})
	}
	if err == nil {
		err = s.fail.Hit(pointPopulated)
	}
	s.populators.Done()
	if err != nil {
		s.mu.Lock()
		s.populating = false
		s.mu.Unlock()
		return control.Session{}, problem.New(http.StatusConflict, "not_detached", "try again, or close the session", "session %q: detaching: %w", id, err)
	}
	s.cancel(errDetached)
	<-s.done
	d := s.describe()
	if d.Reason != errDetached.Error() {
		return d, problem.New(http.StatusConflict, "not_detached", "its reason says why", "session %q %s: %s", id, d.State, d.Reason)
	}
	return d, nil
}

// beginPopulating admits one populator, whose end the end of the session awaits.
func (s *session) beginPopulating() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != control.Serving {
		return problem.New(http.StatusConflict, "not_serving", "detach sessions that serve a VMM", "session %q is %s", s.id, s.state)
	}
	if s.populating {
		return problem.New(http.StatusConflict, "detaching", "wait for it", "session %q is being detached already", s.id)
	}
	s.populating = true
	s.populators.Add(1)
	return nil
}

// populate installs every page with content that is not there yet.
func (s *session) populate(ctx context.Context) error {
	scratch, err := offHeap[byte](control.PageSize)
	if err != nil {
		return err
	}
	defer freeOffHeap(scratch)
	size := s.mapping.pageSize
	for _, r := range s.mapping.regions {
		for at := uint64(0); at < r.size; {
			if skip := s.zeroPages(r.offset+at, r.size-at); skip > 0 {
				at += skip
				continue
			}
			if err := s.populatePage(ctx, task{address: r.start + at, offset: r.offset + at}, scratch); err != nil {
				return err
			}
			at += size
		}
	}
	return nil
}

// zeroPages returns how many bytes from offset on, at most limit, are whole pages that
// are zero in the image and have no overlay.
func (s *session) zeroPages(offset, limit uint64) uint64 {
	size := s.mapping.pageSize
	loc, n := s.image.ResolveRun(offset/memimage.PageSize, limit/memimage.PageSize)
	if !loc.Zero {
		return 0
	}
	zero := n * memimage.PageSize &^ (size - 1)
	for at := range s.overlays {
		if at-offset < zero {
			zero = (at - offset) &^ (size - 1)
		}
	}
	return zero
}

// populatePage installs one page, after all demand faults that wait for a read.
func (s *session) populatePage(ctx context.Context, t task, scratch []byte) error {
	t.read = time.Now()
	for {
		if err := errors.Join(context.Cause(ctx), context.Cause(s.ctx)); err != nil {
			return err
		}
		if s.misses.waiting() {
			time.Sleep(demandPause)
			continue
		}
		var out outcome
		var err error
		if s.mapping.pageSize == control.PageSize {
			out, err = s.serve4K(t, scratch, true)
		} else {
			out, err = s.populate2M(t)
		}
		if err != nil {
			return err
		}
		if out == resolved {
			return nil
		}
		time.Sleep(parkMax)
	}
}

// populate2M installs a huge page, and makes sure that it is there: without a free page
// in the pool the kernel says that it is (see echoes), and no guest faults again to
// tell the difference.
func (s *session) populate2M(t task) (outcome, error) {
	out, err := s.serve2M(t)
	if err != nil || out != resolved || s.removed.has(t.offset/pageSize2M) {
		return out, err
	}
	s.mu.Lock()
	pid := s.vmmPID
	s.mu.Unlock()
	if there, err := holds(pid, t.address); err != nil || there {
		return resolved, err
	}
	return s.outOfMemory(t, t.read, uffd.Result{Status: uffd.NoMemory, Errno: unix.ENOMEM})
}

// demandPause is how long populating steps back for a demand fault that waits.
const demandPause = 50 * time.Microsecond

// release lets the kernel serve the guest's memory from now on. It wakes who waits
// for a page, and lets go who waits for the reading of a REMOVE event: nobody will
// read one behind this.
func (s *session) release() error {
	for _, r := range s.mapping.regions {
		if err := s.fd.Unregister(uffd.Range{Start: r.start, Len: r.size}); err != nil {
			return fmt.Errorf("unregistering the guest's memory: %w", err)
		}
	}
	if err := s.fail.Hit(pointUnregistered); err != nil {
		return err
	}
	// An madvise that saw the registration may queue its event a moment later.
	for {
		readable, _, err := s.fd.Wait(nil, releasePatience)
		if err != nil || !readable {
			return err
		}
		if _, err := s.fd.Read(s.messages); err != nil {
			return err
		}
	}
}

// releasePatience is how long release waits for events that were under way.
const releasePatience = 20 * time.Millisecond
