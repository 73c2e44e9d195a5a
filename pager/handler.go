package pager

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/strictjson"
	"github.com/faultline-vm/faultline/pager/control"
)

// Handler returns the control API. Access control is the socket's file mode.
func (p *Pager) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", answer(func(*http.Request) (int, any, error) { return http.StatusOK, p.Health(), nil }))
	mux.HandleFunc("GET /stats", answer(func(*http.Request) (int, any, error) { return http.StatusOK, p.Stats(), nil }))
	mux.HandleFunc("GET /sessions", answer(func(*http.Request) (int, any, error) { return http.StatusOK, p.Sessions(), nil }))
	mux.HandleFunc("POST /sessions", answer(func(r *http.Request) (int, any, error) {
		req, err := control.DecodeSessionRequest(r.Body)
		if err != nil {
			return 0, nil, err
		}
		s, err := p.Create(req)
		if gone := context.Cause(r.Context()); err == nil && gone != nil {
			// Nobody will learn of this session, so nobody would close it.
			_, err = p.CloseSession(req.ID)
			err = errors.Join(gone, err)
		}
		return http.StatusCreated, s, err
	}))
	mux.HandleFunc("GET /sessions/{id}", answer(func(r *http.Request) (int, any, error) {
		s, err := p.Session(r.PathValue("id"))
		return http.StatusOK, s, err
	}))
	mux.HandleFunc("POST /sessions/{id}/close", answer(func(r *http.Request) (int, any, error) {
		s, err := p.CloseSession(r.PathValue("id"))
		return http.StatusOK, s, err
	}))
	mux.HandleFunc("POST /sessions/{id}/detach", answer(func(r *http.Request) (int, any, error) {
		s, err := p.Detach(r.Context(), r.PathValue("id"))
		return http.StatusOK, s, err
	}))
	mux.HandleFunc("POST /handover", answer(func(r *http.Request) (int, any, error) {
		var req control.HandoverRequest
		if err := strictjson.Decode(r.Body, &req, "give the other pager's directory as to"); err != nil {
			return 0, nil, err
		}
		h, err := p.Handover(r.Context(), req)
		return http.StatusOK, h, err
	}))
	mux.HandleFunc("POST /drain", answer(func(*http.Request) (int, any, error) {
		p.Drain()
		return http.StatusAccepted, p.Health(), nil
	}))
	mux.HandleFunc("/", answer(func(r *http.Request) (int, any, error) {
		return 0, nil, problem.New(http.StatusNotFound, "route_unknown", "see docs/pager-api.md for the routes", "no route %s %s", r.Method, r.URL.Path)
	}))
	return mux
}

// answer turns a function into a handler that writes its result as JSON, or its
// error as a problem.
func answer(fn func(*http.Request) (status int, body any, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, body, err := fn(r)
		if err != nil {
			problem.Write(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		// The peer may be gone; there is nobody left to tell.
		_ = json.NewEncoder(w).Encode(body)
	}
}
