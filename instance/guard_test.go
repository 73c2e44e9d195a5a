package instance

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// silent is a pager that has no session, and reads no handshake.
type silent struct{ socket string }

func (p silent) CreateSession(_ context.Context, req control.SessionRequest) (control.Session, error) {
	return control.Session{ID: req.ID, Socket: p.socket}, nil
}

func (silent) Sessions(context.Context) ([]control.Session, error) { return nil, nil }

// TestLoadEndsWithItsSession restores from a pager that has lost the VMM's handshake.
func TestLoadEndsWithItsSession(t *testing.T) {
	s := newSite(t)
	socket := filepath.Join(s.dir, "session.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s.cfg.Pager = func(context.Context, string) (Pager, error) { return silent{socket}, nil }
	m := s.open()
	standby(s, m)
	_, err = m.Restore(within(t), "a", RestoreRequest{Backend: Uffd})
	if code(err) != CodeStepFailed || !strings.Contains(err.Error(), errSessionOver.Error()) {
		t.Errorf("error %v", err)
	}
	mustBe(t, m, "a", Standby)
	s.audit(m)
}

// dying is a pager that is kept running; each request meets with the next error.
type dying struct {
	*supervisor.Supervisor
	errs []error
}

func (p *dying) Over() <-chan struct{} { return nil }

func (p *dying) CreateSession(_ context.Context, req control.SessionRequest) (control.Session, error) {
	err := p.errs[0]
	p.errs = p.errs[1:]
	return control.Session{ID: req.ID}, err
}

// TestSessionOfADyingPager opens sessions at a pager that dies meanwhile.
func TestSessionOfADyingPager(t *testing.T) {
	reset := errors.New("connection reset")
	exists := problem.New(409, sessionExists, "", "it is there")
	for name, test := range map[string]struct {
		errs []error
		left int
		want error
	}{
		"at once":                {[]error{nil, nil}, 1, nil},
		"after two deaths":       {[]error{reset, reset, nil}, 0, nil},
		"after an answer lost":   {[]error{reset, exists, nil}, 0, nil},
		"another's, by mistake":  {[]error{exists, nil}, 1, exists},
		"what the pager refuses": {[]error{reset, problem.New(409, draining, "", "no"), nil, nil}, 2, problem.New(409, draining, "", "no")},
	} {
		p := &dying{errs: test.errs}
		var starts sync.WaitGroup
		set := &pagerSet{dataDir: t.TempDir(), life: t.Context(), starts: &starts}
		set.open = func(context.Context, string) (Pager, error) { return p, nil }
		if _, err := set.get(t.Context(), "1.0.0"); err != nil {
			t.Fatal(err)
		}
		s, err := set.createAt(t.Context(), "1.0.0", p, control.SessionRequest{ID: "a"})
		if !errors.Is(err, test.want) || s.ID != "a" || len(p.errs) != test.left {
			t.Errorf("%s: session %q, %v, %d requests not made", name, s.ID, err, len(p.errs))
		}
	}
}
