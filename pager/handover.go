package pager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/strictjson"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
)

// A handover moves a session from a live pager to another one, which serves the same
// data directory under another version. For each session there is one connection:
//
//	old ─▶ new   hello: format, version and the session's id
//	new ─▶ old   hello
//	             old stops the session's fault loop, and moves its journal into the
//	             new pager's directory, as .moving-<id>
//	old ─▶ new   the session's id, with its userfaultfd
//	             new claims the journal by another rename, to <id>, and serves
//	new ─▶ old   done
//
// The guest waits between the stop and the end, and is woken once.
//
// Between the two renames the session is nobody's, and belongs to whoever renames the
// journal next: the new pager, also when it starts or when the old one hangs up, or
// the old one, which takes it back where it got no answer. One of them fails, and
// knows that the other has the session. A new pager that cannot serve a session that
// it has claimed puts the journal back under .moving-<id> before it says so.

// errHandover tells a fault loop to stop for a handover; errHandedOver is the cause of
// a session that another pager serves now.
var (
	errHandover   = errors.New("to be handed over")
	errHandedOver = errors.New("handed over to another pager")
)

// departure is a handover of one session.
type departure struct {
	to   string        // directory of the other pager
	conn *net.UnixConn // behind the hellos
	done chan error    // gets the outcome; has room for it
}

// handoverTimeout bounds each step of the other side. A pager answers within
// milliseconds; what answers later is no pager.
const handoverTimeout = 10 * time.Second

// handoverMessage is what both sides say, one JSON object per message.
type handoverMessage struct {
	Format  int    `json:"format"`
	Version string `json:"version,omitempty"`
	ID      string `json:"id,omitempty"`
	Error   string `json:"error,omitempty"`
}

// MovingPrefix begins the name of a journal, in the sessions directory of the pager that
// is to have it, while the session is being handed over. No session's id begins with a
// dot.
const MovingPrefix = ".moving-"

// handoverSocket is where a pager takes sessions.
func handoverSocket(dir string) string { return filepath.Join(dir, "handover.sock") }

// Handover hands all sessions over to the pager in another directory, one after the
// other, and drains this pager: it takes no new sessions, and exits when its last is
// over. Sessions whose VMM has not connected yet are waited for while ctx lasts.
func (p *Pager) Handover(ctx context.Context, req control.HandoverRequest) (control.Handover, error) {
	if !filepath.IsAbs(req.To) || filepath.Clean(req.To) == p.dir {
		return control.Handover{}, problem.New(http.StatusBadRequest, "bad_request", "give the absolute directory of another pager, {data_dir}/uffd/{version}", "handover to %q", req.To)
	}
	conn, version, err := p.greet(req.To, "")
	if err != nil {
		return control.Handover{}, problem.New(http.StatusBadGateway, "no_successor", "start the other pager first", "no pager takes sessions in %s: %w", req.To, err)
	}
	conn.Close()
	p.Drain()
	h := control.Handover{Version: version}
	kept := make(map[string]bool)
	for {
		waiting := 0
		for _, d := range p.Sessions().Sessions {
			if !d.State.Active() || kept[d.ID] {
				continue
			}
			if d.State != control.Serving {
				waiting++
				continue
			}
			if err := p.handOver(ctx, d.ID, req.To); err != nil {
				if s, err := p.Session(d.ID); err != nil || !s.State.Active() {
					continue // it ended meanwhile
				}
				kept[d.ID] = true
				h.Kept = append(h.Kept, control.KeptSession{ID: d.ID, Reason: err.Error()})
				continue
			}
			h.HandedOver++
		}
		if waiting == 0 {
			return h, nil
		}
		select {
		case <-ctx.Done():
			return h, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// handOver hands one session over and waits for the outcome.
func (p *Pager) handOver(ctx context.Context, id, to string) error {
	s, err := p.session(id)
	if err != nil {
		return err
	}
	conn, _, err := p.greet(to, id)
	if err != nil {
		return err
	}
	defer conn.Close()
	d := &departure{to: to, conn: conn, done: make(chan error, 1)}
	if !s.leaving.CompareAndSwap(nil, d) {
		return errors.New("it is being handed over already")
	}
	defer s.leaving.Store(nil)
	if err := s.wake.Signal(); err != nil {
		return fmt.Errorf("the session ended: %w", err)
	}
	select {
	case err := <-d.done:
		return err
	case <-s.done:
		// It ended, one way or the other.
		select {
		case err := <-d.done:
			return err
		default:
			return fmt.Errorf("the session ended: %s", s.describe().Reason)
		}
	}
}

// greet connects to the pager in a directory and makes sure that it is one. The id is
// that of the session that the connection is for, or empty.
func (p *Pager) greet(dir, id string) (*net.UnixConn, string, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: handoverSocket(dir), Net: "unix"})
	if err != nil {
		return nil, "", err
	}
	var hello handoverMessage
	err = conn.SetDeadline(time.Now().Add(handoverTimeout))
	if err == nil {
		err = json.NewEncoder(conn).Encode(handoverMessage{Format: journalFormat, Version: p.version, ID: id})
	}
	if err == nil {
		err = receiveMessage(conn, &hello)
	}
	if err != nil {
		conn.Close()
		return nil, "", fmt.Errorf("it does not greet like a pager: %w", err)
	}
	return conn, hello.Version, nil
}

// receiveMessage reads one message. It must be whole in one read: messages are small,
// and each is sent with one write.
func receiveMessage(conn *net.UnixConn, m *handoverMessage) error {
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	return m.decode(buf[:n])
}

func (m *handoverMessage) decode(data []byte) error {
	if err := strictjson.Unmarshal(data, m); err != nil {
		return err
	}
	if m.Format != journalFormat {
		return fmt.Errorf("it reads journals of format %d, not %d", m.Format, journalFormat)
	}
	if m.Error != "" {
		return errors.New(m.Error)
	}
	return nil
}

// transfer hands the session over, its fault loop having stopped. After an error the
// session is here as before, but for its waiters, who must be woken. Without one it is
// the other pager's, whether that one lives or not.
func (s *session) transfer(hs *handshake) (err error) {
	d := s.leaving.Load()
	s.setReleased(true)
	defer func() {
		if err != nil {
			s.setReleased(false)
			s.log.Warn("a session stays: it could not be handed over", "session", s.id, "error", err)
			s.leaving.Store(nil)
		}
		d.done <- err
	}()
	if err := d.conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	moving := filepath.Join(d.to, "sessions", MovingPrefix+s.id)
	if err := os.Rename(s.journal.dir, moving); err != nil {
		return fmt.Errorf("moving the session's journal: %w", err)
	}
	err = s.send(d, hs)
	if err == nil {
		return nil
	}
	switch back := os.Rename(moving, s.journal.dir); {
	case errors.Is(back, fs.ErrNotExist):
		s.log.Warn("a session is the other pager's, which did not confirm it", "session", s.id, "error", err)
		return nil
	case back != nil:
		return errors.Join(err, fmt.Errorf("taking the session's journal back: %w", back))
	}
	return fmt.Errorf("the other pager: %w", err)
}

// send gives the other pager the userfaultfd, and waits until it serves.
func (s *session) send(d *departure, hs *handshake) error {
	if err := s.fail.Hit(pointHandoverMoved); err != nil {
		return err
	}
	payload, err := json.Marshal(handoverMessage{Format: journalFormat, ID: s.id})
	if err == nil {
		err = hs.fd.Use(func(raw int) error { return uffd.SendFD(d.conn, payload, raw) })
	}
	if err == nil {
		err = s.fail.Hit(pointHandoverSent)
	}
	if err == nil {
		err = receiveMessage(d.conn, new(handoverMessage))
	}
	return err
}

func (s *session) setReleased(released bool) {
	s.order.Lock()
	defer s.order.Unlock()
	s.released = released
}

// acceptHandovers accepts sessions from other pagers until the listener is closed.
func (p *Pager) acceptHandovers(listener *net.UnixListener) {
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if err := p.takeOver(conn); err != nil {
				p.log.Warn("a handover failed", "error", err)
			}
		}()
	}
}

// takeOver is the new pager's side of one connection.
func (p *Pager) takeOver(conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	var hello handoverMessage
	if err := receiveMessage(conn, &hello); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(handoverMessage{Format: journalFormat, Version: p.version}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, fds, err := uffd.ReceiveFDs(conn, buf)
	if err != nil || n == 0 {
		// It was a greeting only, or the other pager is dead.
		p.adoptMoved(hello.ID)
		return nil
	}
	reply := handoverMessage{Format: journalFormat}
	if err := p.takeSession(buf[:n], fds); err != nil {
		reply.Error = err.Error()
	}
	return json.NewEncoder(conn).Encode(reply)
}

// takeSession adopts the session that a message names, and waits until it serves.
func (p *Pager) takeSession(message []byte, fds []int) error {
	if len(fds) != 1 {
		uffd.CloseAll(fds)
		return fmt.Errorf("%d descriptors instead of the userfaultfd", len(fds))
	}
	fd, err := uffd.NewFD(fds[0])
	if err != nil {
		return err
	}
	var m handoverMessage
	if err = m.decode(message); err == nil && !control.ValidID(m.ID) {
		err = fmt.Errorf("session id %q is not allowed", m.ID)
	}
	if err == nil {
		err = p.cfg.Failpoints.Hit(pointHandoverReceived)
	}
	if err == nil {
		err = p.admit(m.ID)
	}
	if err == nil {
		err = p.claim(m.ID)
	}
	if err != nil {
		fd.Close()
		return err
	}
	s := p.adopt(m.ID, fd)
	if s == nil {
		fd.Close()
		return fmt.Errorf("session %q has no journal here", m.ID)
	}
	for {
		d := s.describe()
		switch {
		case d.State == control.Serving:
			return p.cfg.Failpoints.Hit(pointHandoverServing)
		case d.State.Active():
			time.Sleep(200 * time.Microsecond)
			continue
		}
		<-s.done
		return errors.Join(errors.New(d.Reason), os.Rename(s.journal.dir, p.moving(m.ID)))
	}
}

// moving is where another pager puts the journal of a session.
func (p *Pager) moving(id string) string { return filepath.Join(p.sessionDir(), MovingPrefix+id) }

// claim makes a session that was moved here this pager's. It has been admitted, and is
// not any more after an error.
func (p *Pager) claim(id string) error {
	err := os.Rename(p.moving(id), filepath.Join(p.sessionDir(), id))
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened(id)
	p.checkDrained()
	return fmt.Errorf("session %q was not moved here: %w", id, err)
}

// adoptMoved adopts a session whose other pager died after it had moved it here. There
// need not be one.
func (p *Pager) adoptMoved(id string) {
	if control.ValidID(id) && p.admit(id) == nil && p.claim(id) == nil {
		p.adopt(id, nil)
	}
}
