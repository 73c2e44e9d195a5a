// Package server answers the instance manager's HTTP API.
//
// It holds no state but the connections: routes turn requests into calls of the
// manager, and results and errors into bodies. Access control is the socket's mode,
// see [Listen]. A client that goes away ends the operation that it asked for.
//
// The package takes no locks of its own but the one of each answer, a leaf.
package server

import (
	"context"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// Manager is what the server needs of an *instance.Manager.
type Manager interface {
	Hypervisor() hypervisor.Description
	Stats() instance.Stats
	Create(ctx context.Context, r instance.CreateRequest) (instance.Instance, error)
	List() []instance.Instance
	Get(ref string) (instance.Instance, error)
	Start(ctx context.Context, ref string) (instance.Instance, error)
	Stop(ctx context.Context, ref string, r instance.StopRequest) (instance.Instance, error)
	Pause(ctx context.Context, ref string) (instance.Instance, error)
	Resume(ctx context.Context, ref string) (instance.Instance, error)
	Standby(ctx context.Context, ref string) (instance.Instance, error)
	Restore(ctx context.Context, ref string, r instance.RestoreRequest) (instance.Instance, error)
	Fork(ctx context.Context, r instance.ForkRequest) ([]instance.Forked, error)
	Delete(ctx context.Context, ref string) error
	CreateSnapshot(ctx context.Context, ref string, r instance.SnapshotRequest) (instance.Snapshot, error)
	Snapshots() []instance.Snapshot
	GetSnapshot(ref string) (instance.Snapshot, error)
	ForkSnapshot(ctx context.Context, ref string, r instance.ForkRequest) ([]instance.Forked, error)
	RestoreSnapshot(ctx context.Context, ref string, r instance.RestoreRequest) (instance.Instance, error)
	DeleteSnapshot(ctx context.Context, ref string) error
	Wait(ctx context.Context, ref string, states ...instance.State) (instance.Instance, error)
	Send(ctx context.Context, ref string, input []byte) error
	Pagers(ctx context.Context) ([]fleet.Pager, error)
	UpgradePager(ctx context.Context, version string, report func(done, total int)) (fleet.Upgraded, error)
	DrainPager(ctx context.Context, version string) (fleet.Pager, error)
	DetachSession(ctx context.Context, ref string, report func(given uint64)) (fleet.Detached, error)
}

// Config says what a Server serves.
type Config struct {
	Manager Manager
	// Subscribe returns a stream of the manager's events from now on, and what ends
	// it. Required.
	Subscribe func() (events <-chan instance.Event, stop func())
	// Reload reads the configuration again. Required.
	Reload func() (api.Reloaded, error)
	// Version is that of the program.
	Version string
	// Why says why the manager's hypervisor was chosen.
	Why string
}

// Server is the API of one manager.
type Server struct {
	cfg     Config
	manager Manager
	began   time.Time
	closing context.Context // ends the streams that would never end by themselves
	close   context.CancelFunc
}

// New returns a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, manager: cfg.Manager, began: time.Now()}
	s.closing, s.close = context.WithCancel(context.Background())
	return s
}

// EndStreams ends the streams of events and logs, and waits for states, so that the
// HTTP server can shut down. Operations go on.
func (s *Server) EndStreams() { s.close() }

// Handler returns the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range s.Routes() {
		mux.HandleFunc(route.Method+" "+route.Path, route.checked)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "route_unknown", "GET /openapi.yaml lists the routes", "no route %s %.200q", r.Method, r.URL.Path))
	})
	return mux
}

// Routes returns all routes.
func (s *Server) Routes() []Route {
	return append([]Route{
		handle("GET", "/healthz", http.StatusOK, s.health),
		handle("GET", "/version", http.StatusOK, s.version),
		handle("GET", "/stats", http.StatusOK, func(request, none) (instance.Stats, error) { return s.manager.Stats(), nil }),
		handle("POST", "/config/reload", http.StatusOK, func(request, none) (api.Reloaded, error) { return s.cfg.Reload() }),
		plain("GET", "/openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/yaml")
			_, _ = w.Write(api.Document()) // the peer may be gone
		}),
		plain("GET", "/events", s.events).query("instance"),
	}, slices.Concat(s.instanceRoutes(), s.snapshotRoutes(), s.pagerRoutes())...)
}

func (s *Server) health(request, none) (api.Health, error) {
	h := api.Health{Status: "ok", PID: os.Getpid(), UptimeMS: time.Since(s.began).Milliseconds(), Instances: map[string]int{}}
	for _, i := range s.manager.List() {
		h.Instances[string(i.State)]++
	}
	return h, nil
}

func (s *Server) version(request, none) (api.Version, error) {
	d := s.manager.Hypervisor()
	return api.Version{
		Version: s.cfg.Version, Hypervisor: d.Name, HypervisorVersion: d.Version,
		SnapshotVersion: d.SnapshotVersion, Why: s.cfg.Why,
	}, nil
}
