package pager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// errStranded is the cause of a session that cannot be adopted for a reason that
// may be mended, a missing permission. Its VMM is left frozen and its journal
// stays: a pager that is started with the permission adopts it.
var errStranded = errors.New("the VMM is frozen meanwhile; mend it and restart the pager, or close the session, which ends the VMM")

// errRefused is the cause of a session that another pager wanted to hand over and that
// cannot be served here. It stays where it is.
var errRefused = errors.New("the session stays at the other pager")

// Adopt takes over the sessions that a dead pager of this version left in this data
// directory, and returns when it has begun; the sessions are adopting until they
// serve. If that pager was draining, this one is. Call it once, before new sessions
// are created.
//
// The VMM keeps its userfaultfd open for life (Firecracker since 1.12), so its
// memory was frozen, and nothing was lost, while there was no pager.
func (p *Pager) Adopt() error {
	entries, err := os.ReadDir(p.sessionDir())
	if err != nil {
		return fmt.Errorf("looking for sessions to adopt: %w", err)
	}
	if err := p.removeStaleSockets(entries); err != nil {
		return err
	}
	for _, entry := range entries {
		if id, moved := strings.CutPrefix(entry.Name(), MovingPrefix); moved {
			p.adoptMoved(id)
			continue
		}
		if !entry.IsDir() || !control.ValidID(entry.Name()) {
			continue
		}
		if p.admit(entry.Name()) != nil {
			continue // it is served already, or was handed over just now
		}
		p.adopt(entry.Name(), nil)
	}
	p.deposits.removeUnclaimed()
	p.resumeDrain()
	return nil
}

// adopt registers one session and starts its life. Fd is its userfaultfd if somebody
// handed it over, else nil. It returns the session, or nil if there is none. The id
// must have been admitted.
func (p *Pager) adopt(id string, fd *uffd.FD) *session {
	j := journal{filepath.Join(p.sessionDir(), id)}
	found, err := j.load()
	if errors.Is(err, fs.ErrNotExist) {
		// Its creation never ended; nobody was told of it.
		if err := j.end(); err != nil {
			p.log.Error("removing an unfinished journal", "session", id, "error", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.opened(id)
		return nil
	}
	if err == nil && found.request.ID != id {
		err = fmt.Errorf("journal in %s belongs to session %q", j.dir, found.request.ID)
	}
	found.request.ID = id // whatever it says, these are the names to be cleaned up
	s := p.blankSession(found.request)
	s.state = control.Adopting
	s.populated = found.populated
	s.reclaim()
	if found.pid != 0 {
		s.claim(found)
	}
	if found.attached {
		s.forgetSockets()
		s.reception.close()
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	p.mu.Lock()
	p.opened(id)
	p.forget(id)
	p.sessions[id] = s
	p.counts.Created++
	p.mu.Unlock()
	go func() {
		p.readopt(s, found, fd, err)
		s.cancel(nil)
		p.finish(s)
		close(s.done)
	}()
	return s
}

// readopt is the life of an adopted session. Err is what is wrong with its journal.
func (p *Pager) readopt(s *session, found saved, fd *uffd.FD, err error) {
	if found.attached {
		s.mu.Lock()
		s.vmmPID, s.vmmStart = found.pid, found.start
		s.mu.Unlock()
	}
	if err == nil {
		err = s.endArrived(found)
	}
	if err == nil {
		err = p.equip(s, found.request)
	}
	// A session that has its VMM gets no socket, which would only be there to turn
	// others away and is a fifth of the work. Everything that is done to a nil listener
	// fails and does no harm.
	var listener *net.UnixListener
	if err == nil && !found.attached {
		listener, err = s.listen()
	}
	if err != nil {
		err = refuse(err, fd)
		s.forgetSockets()
		s.over(s.abandon(found, fmt.Errorf("cannot be adopted: %w", err)))
		return
	}
	arrive := s.awaitVMM
	if found.attached {
		arrive = func(ctx context.Context, _ *net.UnixListener) (*handshake, error) {
			hs, err := s.reattach(found, fd)
			if err != nil {
				err = refuse(err, fd)
			}
			if err != nil && !errors.Is(err, errVMMExited) {
				err = s.abandon(found, fmt.Errorf("cannot be adopted: %w", err))
			}
			return hs, err
		}
	} else {
		s.mu.Lock()
		s.state = control.Waiting
		s.mu.Unlock()
	}
	s.run(s.ctx, listener, arrive)
}

// refuse gives back what was handed over with a session that cannot be served here.
func refuse(err error, fd *uffd.FD) error {
	if fd == nil {
		return err
	}
	fd.Close()
	return fmt.Errorf("%w; %w", err, errRefused)
}

// reattach gets hold of the VMM and its userfaultfd, unless that was handed over: then
// it is fd.
func (s *session) reattach(found saved, fd *uffd.FD) (*handshake, error) {
	if found.mapping.end() > s.image.Size() {
		return nil, fmt.Errorf("the guest's memory needs %d bytes, the memory image has %d", found.mapping.end(), s.image.Size())
	}
	vmm, err := reopenVMM(found.pid, found.start)
	if err != nil {
		return nil, err
	}
	pages, err := s.journal.openPages(found.mapping, false)
	if err != nil {
		vmm.Close()
		return nil, err
	}
	if fd != nil {
		s.deposit(vmm, fd)
	} else if fd, err = s.recover(vmm, found.mapping); err != nil {
		pages.close()
		vmm.Close()
		return nil, err
	}
	return &handshake{vmm: vmm, fd: fd, mapping: found.mapping, pages: pages, adopted: true}, nil
}

// reopenVMM finds a VMM again. The error is errVMMExited when it is gone, or when its
// number belongs to another process.
func reopenVMM(pid int, startTime uint64) (*pidfd.Process, error) {
	vmm, err := pidfd.Reopen(pid, startTime)
	if errors.Is(err, os.ErrProcessDone) {
		err = fmt.Errorf("%w: %w", errVMMExited, err)
	}
	return vmm, err
}

// findUserfaultfd takes a copy of the VMM's one userfaultfd.
func findUserfaultfd(vmm *pidfd.Process) (*uffd.FD, error) {
	numbers, err := uffd.Find(vmm.PID())
	switch {
	case errors.Is(err, uffd.ErrGone):
		return nil, errVMMExited
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w; the pager needs CAP_SYS_PTRACE, or the VMM's user: %w", err, errStranded)
	case err != nil:
		return nil, err
	case len(numbers) == 0:
		return nil, fmt.Errorf("process %d has no userfaultfd any more; it runs another program, or is no Firecracker that keeps it (1.12 or later)", vmm.PID())
	case len(numbers) > 1:
		return nil, fmt.Errorf("process %d has %d userfaultfds, and which is the guest's cannot be told", vmm.PID(), len(numbers))
	}
	var fd *uffd.FD
	err = vmm.Use(func(raw int) (err error) {
		fd, err = uffd.Adopt(raw, numbers[0])
		return err
	})
	switch {
	case errors.Is(err, uffd.ErrGone):
		return nil, errVMMExited
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w; %w", err, errStranded)
	}
	return fd, err
}

// abandon ends the VMM of a session that can never be served again, so that it is
// not left frozen. It leaves alone what may be mended, and a process that holds no
// guest. It returns cause with what became of the VMM.
func (s *session) abandon(found saved, cause error) error {
	if errors.Is(cause, errStranded) || errors.Is(cause, errRefused) || !found.attached {
		return cause
	}
	vmm, err := reopenVMM(found.pid, found.start)
	if errors.Is(err, errVMMExited) {
		return err
	}
	if err == nil {
		defer vmm.Close()
		if numbers, findErr := uffd.Find(vmm.PID()); findErr == nil && len(numbers) == 0 {
			return cause
		}
		err = vmm.End(killTimeout)
	}
	if err != nil {
		return fmt.Errorf("%w; and %w", cause, err)
	}
	return cause
}

// takeUp continues where the dead pager stopped: it marks the pages of REMOVE events
// that were read, and wakes every range once, so that faults which the dead pager
// had read come again.
func (s *session) takeUp() error {
	for i := range s.messages {
		if m := &s.messages[i]; m.Event() == uffd.UFFD_EVENT_REMOVE {
			s.markRemoved(m.Remove())
		}
	}
	for _, r := range s.mapping.regions {
		if err := s.fd.Wake(uffd.Range{Start: r.start, Len: r.size}); err != nil {
			return fmt.Errorf("waking the guest after adoption: %w", err)
		}
	}
	return nil
}

// closeStranded ends the VMM of a session that could not be adopted, and drops the
// journal.
func (s *session) closeStranded() error {
	s.mu.Lock()
	pid, start := s.vmmPID, s.vmmStart
	s.mu.Unlock()
	if pid != 0 {
		vmm, err := reopenVMM(pid, start)
		if err == nil {
			err = vmm.End(killTimeout)
			vmm.Close()
		}
		if err != nil && !errors.Is(err, errVMMExited) {
			return err
		}
	}
	return s.journal.end()
}
