package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

func (s *Server) instanceRoutes() []Route {
	m := s.manager
	// simple makes a route of an operation that takes no body.
	simple := func(operation string, fn func(ctx context.Context, ref string) (instance.Instance, error)) Route {
		return reported(s, "POST", "/instances/{id}/"+operation, http.StatusOK, func(ctx context.Context, ref string, _ none) (instance.Instance, error) {
			return fn(ctx, ref)
		})
	}
	return []Route{
		handle("GET", "/instances", http.StatusOK, func(request, none) (api.Instances, error) {
			return api.Instances{Instances: append([]instance.Instance{}, m.List()...)}, nil
		}),
		reported(s, "POST", "/instances", http.StatusCreated, func(ctx context.Context, _ string, body instance.CreateRequest) (instance.Instance, error) {
			return m.Create(ctx, body)
		}),
		handle("GET", "/instances/{id}", http.StatusOK, func(r request, _ none) (instance.Instance, error) {
			return m.Get(r.id())
		}),
		reported(s, "DELETE", "/instances/{id}", http.StatusOK, func(ctx context.Context, ref string, _ none) (api.Deleted, error) {
			return deleted(m.Delete(ctx, ref))
		}),
		simple("start", m.Start),
		reported(s, "POST", "/instances/{id}/stop", http.StatusOK, m.Stop),
		simple("pause", m.Pause),
		simple("resume", m.Resume),
		simple("standby", m.Standby),
		reported(s, "POST", "/instances/{id}/restore", http.StatusOK, m.Restore),
		handle("POST", "/instances/{id}/fork", http.StatusCreated, func(r request, body instance.ForkRequest) (api.Forks, error) {
			body.Source = r.id()
			source, err := m.Get(body.Source)
			if err != nil {
				return api.Forks{}, err
			}
			ctx, stop := s.watch(r, forksOf(body, source.ID))
			defer stop()
			return forks(m.Fork(ctx, body))
		}).long(),
		reported(s, "POST", "/instances/{id}/snapshot", http.StatusCreated, m.CreateSnapshot),
		handle("POST", "/instances/{id}/input", http.StatusNoContent, func(r request, body api.Input) (none, error) {
			return none{}, m.Send(r.Context(), r.id(), body.Data)
		}),
		handle("GET", "/instances/{id}/wait", http.StatusOK, s.wait).query("state", "timeout_ms"),
		plain("GET", "/instances/{id}/logs", s.logs).query("source", "tail", "follow"),
	}
}

func (s *Server) snapshotRoutes() []Route {
	m := s.manager
	return []Route{
		handle("GET", "/snapshots", http.StatusOK, func(request, none) (api.Snapshots, error) {
			return api.Snapshots{Snapshots: append([]instance.Snapshot{}, m.Snapshots()...)}, nil
		}),
		handle("GET", "/snapshots/{id}", http.StatusOK, func(r request, _ none) (instance.Snapshot, error) {
			return m.GetSnapshot(r.id())
		}),
		handle("DELETE", "/snapshots/{id}", http.StatusOK, func(r request, _ none) (api.Deleted, error) {
			return deleted(m.DeleteSnapshot(r.Context(), r.id()))
		}),
		handle("POST", "/snapshots/{id}/fork", http.StatusCreated, func(r request, body instance.ForkRequest) (api.Forks, error) {
			source, err := m.GetSnapshot(r.id())
			if err != nil {
				return api.Forks{}, err
			}
			ctx, stop := s.watch(r, forksOf(body, source.Instance))
			defer stop()
			return forks(m.ForkSnapshot(ctx, r.id(), body))
		}).long(),
		reported(s, "POST", "/snapshots/{id}/restore", http.StatusOK, m.RestoreSnapshot),
	}
}

// deleted makes a deletion that can be repeated: that nothing was there is an
// answer, not an error.
func deleted(err error) (api.Deleted, error) {
	var p *problem.Problem
	if errors.As(err, &p) && p.Code == instance.CodeNotFound {
		return api.Deleted{}, nil
	}
	return api.Deleted{Deleted: err == nil}, err
}

func forks(made []instance.Forked, err error) (api.Forks, error) {
	out := api.Forks{Forks: make([]api.Fork, len(made))}
	for i, one := range made {
		out.Forks[i] = api.Fork{Name: one.Name}
		if one.Err != nil {
			out.Forks[i].Problem = problem.From(one.Err)
		} else {
			out.Forks[i].Instance = &one.Instance
		}
	}
	return out, err
}
