package pager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
//	old ─▶ new   hello: format and version
//	new ─▶ old   hello
//	             old stops the session's fault loop, and moves its journal into the
//	             new pager's directory: from here on it is the new one's
//	old ─▶ new   the session's id, with its userfaultfd
//	new ─▶ old   done, when it serves
//
// The guest waits between the stop and the end, and is woken once. A new pager that
// dies behind the move adopts the session when it starts again; one that refuses gets
// the journal taken back, and the session goes on at the old one.

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

// handoverSocket is where a pager takes sessions.
func handoverSocket(dir string) string { return filepath.Join(dir, "handover.sock") }

// Handover hands all sessions over to the pager in another directory, one after the
// other, and drains this pager: it takes no new sessions, and exits when its last is
// over. Sessions whose VMM has not connected yet are waited for while ctx lasts.
func (p *Pager) Handover(ctx context.Context, req control.HandoverRequest) (control.Handover, error) {
	if !filepath.IsAbs(req.To) || filepath.Clean(req.To) == p.dir {
		return control.Handover{}, problem.New(http.StatusBadRequest, "bad_request", "give the absolute directory of another pager, {data_dir}/uffd/{version}", "handover to %q", req.To)
	}
	conn, version, err := p.greet(req.To)
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
	conn, _, err := p.greet(to)
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

// greet connects to the pager in a directory and makes sure that it is one.
func (p *Pager) greet(dir string) (*net.UnixConn, string, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: handoverSocket(dir), Net: "unix"})
	if err != nil {
		return nil, "", err
	}
	var hello handoverMessage
	err = conn.SetDeadline(time.Now().Add(handoverTimeout))
	if err == nil {
		err = json.NewEncoder(conn).Encode(handoverMessage{Format: journalFormat, Version: p.version})
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
// session is here as before, but for its waiters, who must be woken.
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
	there := filepath.Join(d.to, "sessions", s.id)
	if err := os.Rename(s.journal.dir, there); err != nil {
		return fmt.Errorf("moving the session's journal: %w", err)
	}
	if err := s.fail.Hit(pointHandoverMoved); err != nil {
		return errors.Join(err, os.Rename(there, s.journal.dir))
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
	if err != nil {
		return errors.Join(fmt.Errorf("the other pager: %w", err), os.Rename(there, s.journal.dir))
	}
	return nil
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
	if err := receiveMessage(conn, new(handoverMessage)); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(handoverMessage{Format: journalFormat, Version: p.version}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, fds, err := uffd.ReceiveFDs(conn, buf)
	if err != nil || n == 0 {
		return nil // a greeting only
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
		err = p.admit(m.ID)
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
			return nil
		case !d.State.Active():
			return errors.New(d.Reason)
		}
		time.Sleep(200 * time.Microsecond)
	}
}
