package talk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
)

// puppet is a VMM whose guest says what a test has written down.
type puppet struct {
	hypervisor.VMM
	path   string
	sent   []byte
	exited chan struct{}
}

func (p *puppet) Send(b []byte) error { p.sent = append(p.sent, b...); return nil }

func (p *puppet) Console(int64) (*hypervisor.Console, error) {
	return hypervisor.OpenConsole(p.path, 0, p.exited)
}

func (p *puppet) State(ctx context.Context) (hypervisor.State, error) { return "", errGone }

var errGone = errors.New("it was struck by lightning")

func converse(t *testing.T, lines ...string) (*Talk, *puppet) {
	t.Helper()
	p := &puppet{path: filepath.Join(t.TempDir(), "console"), exited: make(chan struct{})}
	if err := os.WriteFile(p.path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// All has been said.
	close(p.exited)
	talk, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := talk.Close(); err != nil {
			t.Error(err)
		}
	})
	return talk, p
}

func said(kind guest.Kind, bad uint64) string {
	return guest.Report{Kind: kind, Pages: 4, Bad: bad, First: 3}.String()
}

func TestAsk(t *testing.T) {
	talk, p := converse(t, "booting", said(guest.Ready, 0), "noise", said(guest.Check, 0), said(guest.Write, 0))
	if _, err := talk.Await(t.Context(), guest.Ready); err != nil {
		t.Fatal(err)
	}
	if r, err := talk.Check(t.Context()); err != nil || r.Pages != 4 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := talk.Write(t.Context()); err != nil {
		t.Error(err)
	}
	if string(p.sent) != "cw" {
		t.Errorf("sent %q", p.sent)
	}
}

func TestSettle(t *testing.T) {
	talk, p := converse(t, said(guest.Check, 2), "noise", said(guest.Write, 0), said(guest.Check, 1), said(guest.Pong, 0), said(guest.Check, 9))
	if r, err := talk.Settle(t.Context()); err != nil || r.Kind != guest.Pong || r.Bad != 3 || r.First != 3 {
		t.Errorf("%v, %v", r, err)
	}
	if string(p.sent) != "p" {
		t.Errorf("sent %q", p.sent)
	}
	talk, _ = converse(t, said(guest.Check, 0))
	if _, err := talk.Settle(t.Context()); !errors.Is(err, errGone) {
		t.Errorf("error %v does not say how the VMM ended", err)
	}
}

func TestAnswersThatAreErrors(t *testing.T) {
	for says, line := range map[string]string{
		"page 3 first":     said(guest.Check, 2),
		"instead of check": said(guest.Pong, 0),
		"guest report":     "faultline check pass=1",
	} {
		talk, _ := converse(t, line)
		if _, err := talk.Check(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q gave %v", line, err)
		}
	}
}

func TestLinuxGuest(t *testing.T) {
	talk, _ := converse(t, "booting", "READY mem=8MiB", "beat 1 up=1 real=2 mem=ok 3ms", "noise", "beat 2 up=1 real=2 mem=BAD:5 3ms", "beat of a drum")
	if err := talk.Beating(t.Context()); err != nil {
		t.Fatal(err)
	}
	for number, bad := range []uint64{0, 5} {
		b, err := talk.Beat(t.Context())
		if err != nil || b.Number != uint64(number)+1 || b.BadWords != bad {
			t.Errorf("beat %d: %+v, %v", number+1, b, err)
		}
	}
	if _, err := talk.Beat(t.Context()); err == nil || !strings.Contains(err.Error(), "not a whole beat") {
		t.Errorf("a line that only begins like a beat: %v", err)
	}
	if err := talk.Beating(t.Context()); !errors.Is(err, errGone) {
		t.Errorf("error %v does not say how the VMM ended", err)
	}
}

func TestGuestThatIsGone(t *testing.T) {
	talk, _ := converse(t, "booting")
	if _, err := talk.Await(t.Context(), guest.Ready); !errors.Is(err, errGone) {
		t.Errorf("error %v does not say how the VMM ended", err)
	}
}
