package daemon

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

// reloader reads the configuration again. Of what has changed, the backend of
// restores that name none is in force at once, for the restores from then on;
// everything else is what the daemon was built of, and waits for the next one.
type reloader struct {
	manager interface{ SetBackend(instance.Backend) error }
	load    func() (config.Config, error)

	mu      sync.Mutex
	current config.Config // what is in force, protected by mu
}

// reload is POST /config/reload. With a fault in the configuration nothing changes.
func (r *reloader) reload() (api.Reloaded, error) {
	answer := api.Reloaded{Applied: []string{}, Restart: []string{}}
	if r.load == nil {
		return answer, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := r.load()
	if err != nil {
		return answer, problem.New(http.StatusConflict, "bad_configuration", "correct it; nothing has changed", "%w", err)
	}
	for _, key := range config.Changed(r.current, next) {
		if key != config.BackendKey {
			answer.Restart = append(answer.Restart, key)
			continue
		}
		backend := next.Hypervisor.FirecrackerSnapshotMemoryBackend
		if err := r.manager.SetBackend(backend); err != nil {
			return answer, err
		}
		r.current.Hypervisor.FirecrackerSnapshotMemoryBackend = backend
		answer.Applied = append(answer.Applied, key)
	}
	return answer, nil
}

// log is reload for who has nobody to answer.
func (r *reloader) log(log *slog.Logger) {
	answer, err := r.reload()
	if err != nil {
		log.Error("the configuration cannot be read again, and stays as it was", "error", err)
		return
	}
	log.Info("the configuration was read again", "applied", answer.Applied, "at_restart", answer.Restart)
}
