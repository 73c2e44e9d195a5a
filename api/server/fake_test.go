package server

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

// fake is a manager of one instance, "web", that a test directs. Methods that no
// test needs are missing.
type fake struct {
	Manager
	dir string
	// fail is what operations return.
	fail error
	// events are what subscribers get; each gets all of them.
	events []instance.Event
	// steps are the events of a start, but for the request.
	steps []instance.Event

	mu          sync.Mutex
	calls       []any // the requests that came
	subscribers []chan instance.Event
	state       instance.State
}

func (f *fake) record(call any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fake) web() instance.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return instance.Instance{ID: "0123abcd", Name: "web", State: f.state, Created: time.Unix(1, 0).UTC(), Dir: f.dir, PID: 7}
}

func (f *fake) setState(s instance.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
}

func (f *fake) Hypervisor() hypervisor.Description {
	return hypervisor.Description{Name: "fcsim", Version: "v1.16.1", SnapshotVersion: "v10.0.0"}
}

func (f *fake) List() []instance.Instance { return []instance.Instance{f.web()} }

func (f *fake) Get(ref string) (instance.Instance, error) {
	if ref == "web" || ref == "0123abcd" {
		return f.web(), nil
	}
	return instance.Instance{}, problem.New(404, instance.CodeNotFound, "list them", "no instance %q", ref)
}

func (f *fake) Create(_ context.Context, r instance.CreateRequest) (instance.Instance, error) {
	f.record(r)
	return f.web(), f.fail
}

func (f *fake) Start(ctx context.Context, _ string) (instance.Instance, error) {
	f.mu.Lock()
	for _, to := range f.subscribers {
		for _, e := range f.steps {
			to <- e
			e.Request = instance.RequestOf(ctx)
			to <- e
		}
	}
	f.mu.Unlock()
	return f.web(), f.fail
}

func (f *fake) Stop(_ context.Context, _ string, r instance.StopRequest) (instance.Instance, error) {
	f.record(r)
	return f.web(), f.fail
}

func (f *fake) Restore(_ context.Context, _ string, r instance.RestoreRequest) (instance.Instance, error) {
	f.record(r)
	return f.web(), f.fail
}

func (f *fake) Fork(_ context.Context, r instance.ForkRequest) ([]instance.Forked, error) {
	f.record(r)
	if f.fail != nil {
		return nil, f.fail
	}
	return []instance.Forked{
		{Name: "a", Instance: f.web()},
		{Name: "b", Err: problem.New(507, instance.CodeNoSpace, "make room", "no space")},
	}, nil
}

func (f *fake) Delete(_ context.Context, ref string) error {
	if f.fail != nil {
		return f.fail
	}
	_, err := f.Get(ref)
	return err
}

func (f *fake) Send(_ context.Context, _ string, input []byte) error {
	f.record(string(input))
	return f.fail
}

func (f *fake) Wait(ctx context.Context, ref string, states ...instance.State) (instance.Instance, error) {
	if _, err := f.Get(ref); err != nil {
		return instance.Instance{}, err
	}
	for {
		web := f.web()
		for _, s := range states {
			if web.State == s {
				return web, nil
			}
		}
		select {
		case <-ctx.Done():
			return instance.Instance{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// asked returns the requests that came, and forgets them.
func (f *fake) asked(t *testing.T) []any {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// subscribe hands out the events and then those of a start, until it is stopped.
func (f *fake) subscribe() (<-chan instance.Event, func()) {
	events := make(chan instance.Event, len(f.events)+2*len(f.steps))
	f.mu.Lock()
	f.subscribers = append(f.subscribers, events)
	f.mu.Unlock()
	for _, e := range f.events {
		events <- e
	}
	return events, sync.OnceFunc(func() { close(events) })
}
