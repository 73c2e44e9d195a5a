package server

import (
	"context"
	"crypto/rand"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
)

// progress makes of an event of the request what there is to report, if anything.
type progress func(instance.Event) (api.Progress, bool)

// watch reports what the request's own events tell, until the function that it
// returns is called. The operation has to be asked for with the context: by it the
// events of others are told apart. Nothing happens when nobody listens.
func (s *Server) watch(r request, report progress) (ctx context.Context, stop func()) {
	if !r.stream {
		return r.Context(), func() {}
	}
	events, end := s.cfg.Subscribe()
	done := make(chan struct{})
	name := rand.Text()
	go func() {
		defer close(done)
		for e := range events {
			if e.Request != name {
				continue
			}
			if p, ok := report(e); ok {
				r.progress(p)
			}
		}
	}()
	return instance.WithRequest(r.Context(), name), func() {
		end()
		<-done
	}
}

// reported makes a route of an operation on what the path names, whose steps are
// reported.
func reported[Body, Result any](s *Server, method, path string, status int, fn func(ctx context.Context, ref string, body Body) (Result, error)) Route {
	return handle(method, path, status, func(r request, body Body) (Result, error) {
		ctx, stop := s.watch(r, steps)
		defer stop()
		return fn(ctx, r.id(), body)
	}).long()
}

// steps tells each step.
func steps(e instance.Event) (api.Progress, bool) {
	return api.Progress{Step: string(e.Operation) + ": " + e.Step}, e.Kind == instance.EventStep
}

// forksOf tells the steps that the source takes first, and then counts the forks
// that have come to an end. Source is the id of the instance.
func forksOf(r instance.ForkRequest, source string) progress {
	total := max(r.Count, len(r.Names), 1)
	done := 0
	return func(e instance.Event) (api.Progress, bool) {
		if e.Instance == source {
			return steps(e)
		}
		if e.Kind != instance.EventDone {
			return api.Progress{}, false
		}
		done++
		return api.Progress{Step: "fork", Done: int64(done), Total: int64(total)}, true
	}
}
