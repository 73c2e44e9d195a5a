package server

import (
	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
)

// watch reports the progress that events tell, until the function that it returns is
// called. Nothing happens when nobody listens.
func (s *Server) watch(r request, progress func(instance.Event) (api.Progress, bool)) (stop func()) {
	if !r.stream {
		return func() {}
	}
	events, end := s.cfg.Subscribe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range events {
			if p, ok := progress(e); ok {
				r.progress(p)
			}
		}
	}()
	return func() {
		end()
		<-done
	}
}

// stepsOf tells the steps of the operations on one instance.
func (s *Server) stepsOf(ref string) func(instance.Event) (api.Progress, bool) {
	target, err := s.manager.Get(ref)
	return func(e instance.Event) (api.Progress, bool) {
		return step(e), err == nil && e.Kind == instance.EventStep && e.Instance == target.ID
	}
}

// stepsOfName tells the steps of an instance that has no id yet.
func stepsOfName(name string) func(instance.Event) (api.Progress, bool) {
	return func(e instance.Event) (api.Progress, bool) {
		return step(e), e.Kind == instance.EventStep && name != "" && e.Name == name
	}
}

func step(e instance.Event) api.Progress {
	return api.Progress{Step: string(e.Operation) + ": " + e.Step}
}
