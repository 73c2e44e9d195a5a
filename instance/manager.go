package instance

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/lockfile"
	"github.com/faultline-vm/faultline/internal/problem"
)

// defaultRestores is Config.MaxConcurrentRestores where that is 0.
const defaultRestores = 32

// Manager runs the instances of one data directory. Its methods are safe for
// concurrent use. A ref is a name, an id, or the beginning of exactly one id.
// Every error is a *problem.Problem; see the codes.
//
// An operation that fails, or whose context ends, has undone all that it made.
type Manager struct {
	cfg       Config
	data      layout
	lock      *lockfile.Lock
	host      host
	admission chan struct{}
	pagers    pagerSet
	sessions  sessionView
	events    broker
	sharing   sharingCounter
	upkeep    *upkeep

	background context.Context // ends with the Manager
	stop       context.CancelFunc
	watching   sync.WaitGroup // goroutines of the background

	mu        sync.Mutex
	closed    bool                      // protected by mu
	working   sync.WaitGroup            // operations; Add is protected by mu
	backend   Backend                   // protected by mu
	entries   map[string]*entry         // by id, protected by mu
	names     map[string]string         // of instances, to ids; reserved ones too; protected by mu
	snapshots map[string]*snapshotEntry // by id, protected by mu
	snapNames map[string]string         // like names, protected by mu
}

// Open takes the data directory, finds the VMMs that outlived an earlier Manager,
// finishes or undoes what was interrupted, and begins to watch.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.DataDir == "" || cfg.Hypervisor == nil {
		return nil, badRequest("set both", "a manager needs a data directory and a hypervisor")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxConcurrentRestores == 0 {
		cfg.MaxConcurrentRestores = defaultRestores
	}
	if cfg.MaxConcurrentRestores < 1 {
		return nil, badRequest("use at least 1", "%d concurrent restores", cfg.MaxConcurrentRestores)
	}
	if err := cfg.Reconfigure.validate(); err != nil {
		return nil, err
	}
	if err := ValidateTapTemplate(cfg.TapTemplate); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, admission: make(chan struct{}, cfg.MaxConcurrentRestores),
		entries: map[string]*entry{}, names: map[string]string{},
		snapshots: map[string]*snapshotEntry{}, snapNames: map[string]string{},
	}
	if err := m.SetBackend(cfg.Backend); err != nil {
		return nil, err
	}
	var err error
	if m.host.cpuModel, m.host.kernel, err = capture.Host(); err != nil {
		return nil, problem.From(err)
	}
	if m.data, m.lock, err = takeDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	m.background, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.pagers.open, m.pagers.dataDir, m.pagers.life, m.pagers.starts = cfg.Pager, m.data.root, m.background, &m.watching
	m.upkeep = newUpkeep(cfg.Upkeep, cfg.Logger, m.data.instances, m.images, func(s capture.Sharing) { m.noteSharing(s) })
	if err := m.recover(ctx); err != nil {
		m.stop()
		m.watching.Wait()
		return nil, errors.Join(err, m.lock.Release())
	}
	m.watching.Go(m.watch)
	m.watching.Go(func() { m.upkeep.run(m.background) })
	return m, nil
}

// Close lets go of the data directory. It waits for operations under way; VMMs
// and the pager run on.
func (m *Manager) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.working.Wait()
	m.stop()
	m.watching.Wait()
	m.events.close()
	return m.lock.Release()
}

// enter notes an operation; leave it with the function returned.
func (m *Manager) enter() (leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, problem.New(http.StatusServiceUnavailable, CodeClosed, "ask again when the daemon runs", "the manager is closed")
	}
	m.working.Add(1)
	return m.working.Done, nil
}

// Hypervisor describes the program that runs the VMMs.
func (m *Manager) Hypervisor() hypervisor.Description { return m.cfg.Hypervisor.Describe() }

// DataDir returns the absolute path of the data directory.
func (m *Manager) DataDir() string { return m.data.root }

// SetBackend changes the backend of restores that name none, from now on. Empty
// means File.
func (m *Manager) SetBackend(b Backend) error {
	if b == "" {
		b = File
	}
	if err := b.validate(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backend = b
	return nil
}

func (m *Manager) defaultBackend() Backend {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backend
}

// Subscribe returns a stream of the events from now on.
func (m *Manager) Subscribe() *Subscription { return m.events.subscribe() }

// List describes all instances, by name.
func (m *Manager) List() []Instance {
	m.mu.Lock()
	entries := make([]*entry, 0, len(m.entries))
	for _, e := range m.entries {
		entries = append(entries, e)
	}
	m.mu.Unlock()
	list := make([]Instance, len(entries))
	for i, e := range entries {
		list[i] = e.describe()
	}
	slices.SortFunc(list, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Get describes one instance.
func (m *Manager) Get(ref string) (Instance, error) {
	e, err := m.find(ref)
	if err != nil {
		return Instance{}, err
	}
	return e.describe(), nil
}

// find returns the instance of a name, an id, or the beginning of one.
func (m *Manager) find(ref string) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return lookup("instance", ref, m.names, m.entries)
}

func lookup[T any](kind, ref string, names map[string]string, byID map[string]*T) (*T, error) {
	if e := byID[names[ref]]; e != nil {
		return e, nil
	}
	if e := byID[ref]; e != nil {
		return e, nil
	}
	var found *T
	for id, e := range byID {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, problem.New(http.StatusConflict, CodeAmbiguous, "give more of the id, or the name", "several ids of %ss begin with %q", kind, ref)
		}
		found = e
	}
	if found == nil {
		return nil, notFound(kind, ref)
	}
	return found, nil
}

// reserve takes a name for an id, for as long as nobody gives it back.
func reserve(kind, name, id string, names map[string]string) error {
	if err := checkName(name); err != nil {
		return badRequest("choose another name", "%w", err)
	}
	if other, taken := names[name]; taken {
		return problem.New(http.StatusConflict, CodeNameTaken, "choose another name, or delete that one first", "the %s %s has the name %s already", kind, other, name)
	}
	names[name] = id
	return nil
}

// reserveName takes the name of an instance that is going to be.
func (m *Manager) reserveName(name, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return reserve("instance", name, id, m.names)
}

// releaseName gives the name of an instance back that did not come to be.
func (m *Manager) releaseName(name, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == id {
		delete(m.names, name)
	}
}

// register makes an instance known.
func (m *Manager) register(e *entry) {
	m.mu.Lock()
	m.entries[e.id] = e
	m.names[e.rec.Name] = e.id
	m.mu.Unlock()
	m.events.publish(Event{Kind: EventCreated, Instance: e.id, Name: e.rec.Name})
}

// unregister forgets an instance whose directory is gone. Its gate is held alone.
func (m *Manager) unregister(e *entry) {
	e.mu.Lock()
	e.gone = true
	name := e.rec.Name
	e.mu.Unlock()
	m.mu.Lock()
	known := m.entries[e.id] == e
	delete(m.entries, e.id)
	if m.names[name] == e.id {
		delete(m.names, name)
	}
	m.mu.Unlock()
	if !known {
		return
	}
	m.events.publish(Event{Kind: EventDeleted, Instance: e.id, Name: name})
}
