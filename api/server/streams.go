package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

// streamContext ends with the request, and when streams are to end.
func (s *Server) streamContext(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.closing, cancel)
	return ctx, func() { stop(); cancel() }
}

// events streams what happens from now on. The headers go out at once: whoever has
// them misses nothing that begins afterwards.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	only := ""
	if ref := r.URL.Query().Get("instance"); ref != "" {
		target, err := s.manager.Get(ref)
		if err != nil {
			problem.Write(w, err)
			return
		}
		only = target.ID
	}
	ctx, cancel := s.streamContext(r)
	defer cancel()
	events, end := s.cfg.Subscribe()
	defer end()
	w.Header().Set("Content-Type", api.StreamType)
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			if only != "" && e.Instance != only {
				continue
			}
			if json.NewEncoder(w).Encode(e) != nil || flush() != nil {
				return
			}
		}
	}
}

// wait answers when an instance is in one of the states, or gone if none are given.
func (s *Server) wait(r request, _ none) (api.Waited, error) {
	query := r.URL.Query()
	var states []instance.State
	for _, state := range query["state"] {
		states = append(states, instance.State(state))
	}
	limit, err := number(query, "timeout_ms", api.MaxWaitMS)
	if err != nil {
		return api.Waited{}, err
	}
	ctx, cancel := s.streamContext(r.Request)
	defer cancel()
	if limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(limit)*time.Millisecond)
		defer cancel()
	}
	found, err := s.manager.Wait(ctx, r.id(), states...)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Waited{}, problem.New(http.StatusRequestTimeout, "timeout", "look at its state and reason, or wait longer",
			"%s did not get there within %d ms", r.id(), limit)
	case err != nil:
		return api.Waited{}, err
	case len(states) == 0:
		return api.Waited{Gone: true}, nil
	}
	return api.Waited{Instance: &found}, nil
}

// logFiles are the files in an instance's directory that a client may read.
var logFiles = map[string]string{"console": firecracker.ConsoleName, "vmm": firecracker.LogName}

// logs writes a log, and goes on with what is added until the VMM ends if asked to.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	if err := s.writeLog(w, r); err != nil {
		problem.Write(w, err)
	}
}

// writeLog returns only errors that come before the first byte of the answer.
func (s *Server) writeLog(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	source := query.Get("source")
	if source == "" {
		source = "console"
	}
	name, ok := logFiles[source]
	if !ok {
		return badRequest("use console or vmm", "no log %.80q", source)
	}
	tail, err := number(query, "tail", api.MaxTail)
	if err != nil {
		return err
	}
	follow, err := boolean(query, "follow")
	if err != nil {
		return err
	}
	target, err := s.manager.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	path := filepath.Join(target.Dir, name)
	begin := int64(0)
	if tail > 0 {
		begin, err = tailOffset(path, tail)
	}
	var file *os.File
	if err == nil {
		file, err = os.Open(path)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever started in it
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if follow && target.PID != 0 {
		return s.follow(w, r, target, path, begin)
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	// Of an error behind the first byte the client learns by the missing end.
	_, _ = io.Copy(w, io.NewSectionReader(file, begin, info.Size()-begin))
	return nil
}

// follow writes a log line by line until the VMM of an instance ends.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, target instance.Instance, path string, begin int64) error {
	ctx, cancel := s.streamContext(r)
	defer cancel()
	ended, stop := s.vmmEnd(ctx, target)
	defer stop()
	log, err := hypervisor.OpenConsole(path, begin, ended)
	if err != nil {
		return err
	}
	defer log.Close()
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return nil
	}
	for {
		line, err := log.Next(ctx)
		if err != nil {
			return nil
		}
		if _, err := io.WriteString(w, line.Text+"\n"); err != nil || flush() != nil {
			return nil
		}
	}
}

// vmmEnd returns a channel that is closed when the VMM of an instance has ended, and
// nothing more is to be expected in its logs.
func (s *Server) vmmEnd(ctx context.Context, target instance.Instance) (ended <-chan struct{}, stop func()) {
	closed := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(closed)
		// An error says that the instance is gone, or that the stream is to end.
		_, _ = s.manager.Wait(ctx, target.ID, instance.Stopped, instance.Standby, instance.Failed)
	}()
	return closed, func() { cancel(); <-closed }
}

// tailOffset returns where the last lines of a file begin.
func tailOffset(path string, lines int) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	// One pass keeps the beginnings of the last lines in a ring.
	begins := make([]int64, 0, lines)
	next, offset, atBegin := 0, int64(0), true
	reader := bufio.NewReaderSize(file, 64<<10)
	for {
		if atBegin {
			if _, err := reader.Peek(1); err == io.EOF {
				break
			}
			if len(begins) < lines {
				begins = append(begins, offset)
			} else {
				begins[next] = offset
				next = (next + 1) % lines
			}
		}
		chunk, err := reader.ReadSlice('\n')
		offset += int64(len(chunk))
		atBegin = err == nil
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return 0, err
		}
	}
	if len(begins) == 0 {
		return 0, nil
	}
	return begins[next%len(begins)], nil
}

// number reads a parameter of the query that is a whole number from 0; 0 if it is
// missing.
func number(query url.Values, name string, limit int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > limit {
		return 0, badRequest("use 0 to "+strconv.Itoa(limit), "%s %.80q is no such number", name, text)
	}
	return n, nil
}

func boolean(query url.Values, name string) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest("use true or false", "%s %.80q is neither", name, text)
	}
	return b, nil
}
