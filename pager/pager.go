package pager

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/lockfile"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
)

//go:embed VERSION
var versionFile string

// Version is the version of the pager's runtime code. Pagers of different versions
// run side by side, each in a directory named by its version.
func Version() string { return strings.TrimSpace(versionFile) }

// Dir returns where the pager of a version keeps its sockets, below a data
// directory: {data_dir}/uffd/{version}.
func Dir(dataDir, version string) string { return filepath.Join(dataDir, "uffd", version) }

// ControlSocket returns the path of a pager's control socket.
func ControlSocket(dataDir, version string) string {
	return filepath.Join(Dir(dataDir, version), "control.sock")
}

// Config is what a pager needs to know. DataDir and CacheMaxBytes are required.
type Config struct {
	// DataDir is the host's data directory, absolute. The pager makes its own
	// directory in it, with mode 0700.
	DataDir string
	// CacheMaxBytes bounds the shared page cache, at least MinCacheBytes.
	CacheMaxBytes uint64
	// Version names the pager's directory; "" means Version(). Another one lets
	// two pagers of one version stand side by side, as if they were two.
	Version string
	// Log receives what happens to sessions, never single faults. Nil discards.
	Log *slog.Logger
	// Failpoints make the pager fail on purpose, in tests. Nil is none.
	Failpoints *failpoint.Set
	// Manager is what started the pager and will start the next one. New takes over
	// what it returned.
	Manager Manager
}

// MinCacheBytes is the smallest cache that a pager accepts.
const MinCacheBytes = 1 << 20

// Limits of the registry.
const (
	// maxSessions bounds the sessions that are active at once.
	maxSessions = 4096
	// maxOver bounds the ended sessions that are remembered. The oldest go first.
	maxOver = 1024
)

// sun_path holds 108 bytes with its end, unix(7).
const maxSocketPath = 107

// Pager serves page faults for any number of sessions. Make one with New, give its
// Handler to an HTTP server on a unix socket, and Close it.
//
// Lock order: mu before session.mu. Neither is held across I/O nor taken on the
// fault path.
type Pager struct {
	cfg        Config
	version    string
	dir        string
	lock       *lockfile.Lock // of dir; held while the pager lives
	log        *slog.Logger
	started    time.Time
	cache      *pageCache
	images     memimage.Library // shares one open image among sessions of the same layers
	sharedHuge *hugePool
	hugeZeros  []byte
	deposits   *deposits
	past       counters // of sessions that are over
	closing    sync.Once
	closeErr   error // of the first Close

	mu       sync.Mutex
	sessions map[string]*session      // by id; protected by mu
	opening  map[string]chan struct{} // of sessions that are being made, by id; closed when that is over; protected by mu
	over     []*session               // those of sessions that are over, oldest first; protected by mu
	counts   control.SessionCounts
	draining bool          // protected by mu
	drained  chan struct{} // closed when draining and nothing is active
}

// New makes a pager and its directory. It serves nothing yet.
func New(cfg Config) (*Pager, error) {
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("data directory %q is not absolute", cfg.DataDir)
	}
	if cfg.CacheMaxBytes < MinCacheBytes {
		return nil, fmt.Errorf("a page cache of %d bytes is too small; use at least %d", cfg.CacheMaxBytes, MinCacheBytes)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = Version()
	}
	if !control.ValidID(cfg.Version) {
		return nil, fmt.Errorf("version %q cannot name a directory; use letters, digits, dots and dashes", cfg.Version)
	}
	p := &Pager{
		cfg: cfg, version: cfg.Version, dir: Dir(cfg.DataDir, cfg.Version), log: cfg.Log, started: time.Now(),
		sharedHuge: newHugePool(sharedHugeBuffers),
		sessions:   make(map[string]*session),
		opening:    make(map[string]chan struct{}),
		drained:    make(chan struct{}),
	}
	err := p.takeDirectory()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.lock.Release()
		}
	}()
	if p.cache, err = newPageCache(cfg.CacheMaxBytes); err != nil {
		return nil, fmt.Errorf("page cache of %d bytes: %w", cfg.CacheMaxBytes, err)
	}
	if p.hugeZeros, err = offHeap[byte](pageSize2M); err != nil {
		p.cache.Close()
		return nil, err
	}
	p.deposits = newDeposits(cfg.Manager, cfg.Log)
	return p, nil
}

func (p *Pager) sessionDir() string { return filepath.Join(p.dir, "sessions") }

// Create opens a session: its image is open and its socket accepts the VMM when
// Create returns. Errors are problems.
func (p *Pager) Create(req control.SessionRequest) (control.Session, error) {
	if err := req.Validate(); err != nil {
		return control.Session{}, err
	}
	if err := p.admit(req.ID); err != nil {
		return control.Session{}, err
	}
	s := p.blankSession(req)
	listener, err := p.open(s, req)
	if err != nil {
		p.dismantle(s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened(req.ID)
	if err != nil {
		p.checkDrained()
		return control.Session{}, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	p.forget(req.ID)
	p.sessions[req.ID] = s
	p.counts.Created++
	go func() {
		s.run(s.ctx, listener, s.awaitVMM)
		s.cancel(nil)
		p.finish(s)
		close(s.done)
	}()
	return s.describe(), nil
}

// open prepares a new session until its VMM can connect.
func (p *Pager) open(s *session, req control.SessionRequest) (*net.UnixListener, error) {
	if err := p.equip(s, req); err != nil {
		return nil, err
	}
	listener, err := s.listen()
	if err == nil {
		if err = s.journal.begin(req, s.image); err == nil {
			err = s.fail.Hit(pointRequestWritten)
		}
		if err != nil {
			listener.Close()
			s.forgetSockets()
			err = errors.Join(err, s.journal.end())
		}
	}
	if err != nil {
		return nil, problem.New(http.StatusInternalServerError, "storage", "look at the pager's directory and its disk", "session %q: %w", req.ID, err)
	}
	return listener, nil
}

// admit reserves the id of a new session, or says why there can be none.
func (p *Pager) admit(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return problem.New(http.StatusServiceUnavailable, "draining", "create the session at a newer pager", "the pager is draining and takes no new session")
	}
	if s := p.sessions[id]; p.opening[id] != nil || s != nil && (!p.isOver(s) || s.stranded()) {
		return problem.New(http.StatusConflict, "session_exists", "close it first, or use another id", "session %q exists already", id)
	}
	if active := len(p.opening) + len(p.sessions) - len(p.over); active >= maxSessions {
		return problem.New(http.StatusServiceUnavailable, "too_many_sessions", "close sessions", "%d sessions are active, which is the limit", active)
	}
	p.opening[id] = make(chan struct{})
	return nil
}

// opened ends what admit began. p.mu is held.
func (p *Pager) opened(id string) {
	close(p.opening[id])
	delete(p.opening, id)
}

func (p *Pager) isOver(s *session) bool { return slices.Contains(p.over, s) }

// forget drops the record of a session that is over. p.mu is held.
func (p *Pager) forget(id string) {
	p.over = slices.DeleteFunc(p.over, func(s *session) bool { return s.id == id })
	delete(p.sessions, id)
}

// finish moves a session whose goroutines are gone to those that are over.
func (p *Pager) finish(s *session) {
	p.dismantle(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.past.merge(&s.counters)
	p.over = append(p.over, s)
	if s.describe().State == control.Failed {
		p.counts.Failed++
	} else {
		p.counts.Ended++
	}
	if len(p.over) > maxOver {
		p.forget(p.over[0].id)
	}
	p.checkDrained()
}

// CloseSession ends a session: a VMM that is still attached is killed first, since
// without its session it would freeze at the next absent page. It returns when
// nothing of the session is left. Closing a session that is over changes nothing.
//
// A session that is just being made is waited for: whoever gave up the request that
// makes it must be able to be rid of it.
func (p *Pager) CloseSession(id string) (control.Session, error) {
	p.mu.Lock()
	making := p.opening[id]
	p.mu.Unlock()
	if making != nil {
		<-making
	}
	s, err := p.session(id)
	if err != nil {
		return control.Session{}, err
	}
	s.cancel(errClosed)
	<-s.done
	if !s.stranded() {
		return s.describe(), nil
	}
	if err := s.closeStranded(); err != nil {
		return s.describe(), problem.New(http.StatusInternalServerError, "not_closed", "end the VMM yourself, then close again", "session %q: %w", id, err)
	}
	return s.describe(), nil
}

func (p *Pager) session(id string) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sessions[id]; s != nil {
		return s, nil
	}
	return nil, problem.New(http.StatusNotFound, "session_unknown", "list the sessions", "no session %q", id)
}

// Session describes one session, also one that is over.
func (p *Pager) Session(id string) (control.Session, error) {
	s, err := p.session(id)
	if err != nil {
		return control.Session{}, err
	}
	return s.describe(), nil
}

// Sessions describes all sessions that are remembered, by id.
func (p *Pager) Sessions() control.Sessions {
	p.mu.Lock()
	all := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		all = append(all, s)
	}
	p.mu.Unlock()
	list := control.Sessions{Sessions: make([]control.Session, len(all))}
	for i, s := range all {
		list.Sessions[i] = s.describe()
	}
	slices.SortFunc(list.Sessions, func(a, b control.Session) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Drain refuses new sessions from now on, also in a pager that takes the place of this
// one. Drained is closed when the last is over.
func (p *Pager) Drain() {
	if err := p.rememberDrain(); err != nil {
		p.log.Warn("draining", "error", err)
	}
	p.drain()
}

// drain is Drain for a process that is to end, and may be started again to serve.
func (p *Pager) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	p.checkDrained()
}

// Drained returns a channel that is closed once a draining pager has no session left.
func (p *Pager) Drained() <-chan struct{} { return p.drained }

func (p *Pager) checkDrained() {
	if !p.draining || len(p.opening) > 0 || len(p.sessions) > len(p.over) {
		return
	}
	select {
	case <-p.drained:
	default:
		close(p.drained)
	}
}

// Close ends all sessions and gives everything back. Closing twice is harmless.
func (p *Pager) Close() error {
	p.closing.Do(func() { p.closeErr = p.close() })
	return p.closeErr
}

func (p *Pager) close() error {
	p.drain()
	var errs []error
	for _, s := range p.Sessions().Sessions {
		if _, err := p.CloseSession(s.ID); err != nil && !errors.Is(err, &problem.Problem{Code: "session_unknown"}) {
			errs = append(errs, err)
		}
	}
	<-p.drained
	errs = append(errs, p.forgetDrain())
	p.cache.Close()
	p.sharedHuge.close()
	freeOffHeap(p.hugeZeros)
	return errors.Join(append(errs, p.lock.Release())...)
}

// Stats describes everything that the pager counts.
func (p *Pager) Stats() control.PagerStats {
	var total counters
	p.mu.Lock()
	total.merge(&p.past)
	st := control.PagerStats{Sessions: p.counts}
	for _, s := range p.sessions {
		if !p.isOver(s) {
			total.merge(&s.counters)
			st.Sessions.Active++
		}
	}
	p.mu.Unlock()
	st.Total, st.Cache, st.Process = total.stats(), p.cache.stats(), processStats()
	return st
}

// Health describes the pager itself.
func (p *Pager) Health() control.Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := control.Health{Status: "ok", Version: p.version, PID: os.Getpid(), Sessions: len(p.sessions) - len(p.over), UptimeMS: time.Since(p.started).Milliseconds()}
	if p.draining {
		h.Status = "draining"
	}
	return h
}
