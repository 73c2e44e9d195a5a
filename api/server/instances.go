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
		return handle("POST", "/instances/{id}/"+operation, http.StatusOK, func(r request, _ none) (instance.Instance, error) {
			defer s.watch(r, s.stepsOf(r.id()))()
			return fn(r.Context(), r.id())
		})
	}
	return []Route{
		handle("GET", "/instances", http.StatusOK, func(request, none) (api.Instances, error) {
			return api.Instances{Instances: append([]instance.Instance{}, m.List()...)}, nil
		}),
		handle("POST", "/instances", http.StatusCreated, func(r request, body instance.CreateRequest) (instance.Instance, error) {
			defer s.watch(r, stepsOfName(body.Name))()
			return m.Create(r.Context(), body)
		}).long(),
		handle("GET", "/instances/{id}", http.StatusOK, func(r request, _ none) (instance.Instance, error) {
			return m.Get(r.id())
		}),
		handle("DELETE", "/instances/{id}", http.StatusOK, func(r request, _ none) (api.Deleted, error) {
			defer s.watch(r, s.stepsOf(r.id()))()
			return deleted(m.Delete(r.Context(), r.id()))
		}).long(),
		simple("start", m.Start).long(),
		handle("POST", "/instances/{id}/stop", http.StatusOK, func(r request, body instance.StopRequest) (instance.Instance, error) {
			defer s.watch(r, s.stepsOf(r.id()))()
			return m.Stop(r.Context(), r.id(), body)
		}).long(),
		simple("pause", m.Pause),
		simple("resume", m.Resume),
		simple("standby", m.Standby).long(),
		handle("POST", "/instances/{id}/restore", http.StatusOK, func(r request, body instance.RestoreRequest) (instance.Instance, error) {
			defer s.watch(r, s.stepsOf(r.id()))()
			return m.Restore(r.Context(), r.id(), body)
		}).long(),
		handle("POST", "/instances/{id}/fork", http.StatusCreated, func(r request, body instance.ForkRequest) (api.Forks, error) {
			body.Source = r.id()
			defer s.watch(r, forksOf(body))()
			return forks(m.Fork(r.Context(), body))
		}).long(),
		handle("POST", "/instances/{id}/snapshot", http.StatusCreated, func(r request, body instance.SnapshotRequest) (instance.Snapshot, error) {
			defer s.watch(r, s.stepsOf(r.id()))()
			return m.CreateSnapshot(r.Context(), r.id(), body)
		}).long(),
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
			defer s.watch(r, forksOf(body))()
			return forks(m.ForkSnapshot(r.Context(), r.id(), body))
		}).long(),
		handle("POST", "/snapshots/{id}/restore", http.StatusOK, func(r request, body instance.RestoreRequest) (instance.Instance, error) {
			source := ""
			if snapshot, err := m.GetSnapshot(r.id()); err == nil {
				source = snapshot.Instance
			}
			defer s.watch(r, s.stepsOf(source))()
			return m.RestoreSnapshot(r.Context(), r.id(), body)
		}).long(),
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
