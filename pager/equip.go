package pager

import (
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// blankSession returns a session that holds nothing yet.
func (p *Pager) blankSession(req control.SessionRequest) *session {
	s := &session{
		id: req.ID, imageArg: req.Image, state: control.Waiting,
		socket:  filepath.Join(p.sessionDir(), req.ID+socketSuffix),
		journal: journal{filepath.Join(p.sessionDir(), req.ID)},
		timeout: time.Duration(req.ConnectTimeoutMS) * time.Millisecond,
		log:     p.log, fail: p.cfg.Failpoints, deposits: p.deposits,
		sharedHuge: p.sharedHuge, ownHuge: newHugePool(1), hugeZeros: p.hugeZeros,
		overlays: make(map[uint64][]byte, len(req.Overlays)),
		done:     make(chan struct{}),
	}
	if s.timeout == 0 {
		s.timeout = 30 * time.Second
	}
	return s
}

// equip gives a session its image, its overlays and what else it needs to serve. What
// it got before an error, dismantle gives back.
func (p *Pager) equip(s *session, req control.SessionRequest) (err error) {
	if len(s.socket) > maxSocketPath {
		return problem.New(http.StatusBadRequest, "path_too_long", "use a shorter data directory or session id", "session socket %s is longer than %d bytes", s.socket, maxSocketPath)
	}
	path := req.Image
	if own := s.journal.image(); own != "" {
		path = own // an adopted session's, whose first owner may have removed his names
	}
	if s.image, err = p.images.Open(path); err != nil {
		return imageProblem(path, err)
	}
	if s.layers, err = wrapLayers(s.image); err != nil {
		return imageProblem(req.Image, err)
	}
	s.files = &fileReader{
		pause: 50 * time.Millisecond, retried: func() { s.counters.readRetries.Add(1) },
		copies: copies{places: p.places, log: s.log.With("session", s.id), read: func() { s.counters.copyReads.Add(1) }},
	}
	s.source = &source{cache: p.cache, reader: s.files}
	for _, o := range req.Overlays {
		if o.Offset >= s.image.Size() {
			return problem.New(http.StatusBadRequest, "bad_request", "overlay a page of the image", "overlay offset %d is beyond the memory image of %d bytes", o.Offset, s.image.Size())
		}
		page, err := offHeap[byte](control.PageSize)
		if err != nil {
			return err
		}
		copy(page, o.Data)
		s.overlays[o.Offset] = page
	}
	if s.wake, err = uffd.NewEvent(); err != nil {
		return problem.New(http.StatusInternalServerError, "resources", "raise the limit of open files", "session %q: %w", req.ID, err)
	}
	return nil
}

// imageProblem tells an image that is not there from one that cannot be used.
func imageProblem(path string, err error) error {
	status, code := http.StatusUnprocessableEntity, "bad_image"
	if errors.Is(err, memimage.ErrMissing) {
		status, code = http.StatusNotFound, "image_missing"
	}
	return problem.New(status, code, "", "memory image %s: %w", path, err)
}

// dismantle gives back what a session holds besides its goroutines.
func (p *Pager) dismantle(s *session) {
	for _, page := range s.overlays {
		freeOffHeap(page)
	}
	s.overlays = nil
	s.ownHuge.close()
	if s.wake != nil {
		s.wake.Close() // closed already by a session that ran
	}
	s.dropReturned()
	s.reception.close()
	if s.files != nil {
		s.files.copies.close()
	}
	if s.image == nil {
		return
	}
	if err := s.image.Close(); err != nil {
		p.log.Error("closing a memory image", "image", s.imageArg, "error", err)
	}
}
