package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/talk"
)

// scripted is a microVM whose guest answers from a script.
type scripted struct {
	console string
	exited  chan struct{}
	answer  func(command byte) []guest.Report
}

func newScripted(t *testing.T, answer func(byte) []guest.Report) (*scripted, *talk.Talk) {
	t.Helper()
	s := &scripted{console: filepath.Join(t.TempDir(), "console.log"), exited: make(chan struct{}), answer: answer}
	if err := os.WriteFile(s.console, []byte("something from the firmware\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conversation, err := talk.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conversation.Close() })
	return s, conversation
}

func (s *scripted) Console(int64) (*hypervisor.Console, error) {
	return hypervisor.OpenConsole(s.console, 0, s.exited)
}

func (s *scripted) State(context.Context) (hypervisor.State, error) {
	return "", fmt.Errorf("it has ended, killed")
}

func (s *scripted) Send(input []byte) error {
	file, err := os.OpenFile(s.console, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, command := range input {
		reports := s.answer(command)
		if reports == nil {
			close(s.exited)
		}
		for _, r := range reports {
			if _, err := fmt.Fprintf(file, "%s\r\n", r); err != nil {
				return err
			}
		}
	}
	return nil
}

const testPages = 100

func testGuest() workloadGuest { return workloadGuest{workload: guest.Default(testPages)} }

// healthy answers like a guest that is right, but for what change does to it.
func healthy(change func(*guest.Report)) func(byte) []guest.Report {
	pass := uint64(4)
	return func(command byte) []guest.Report {
		r := guest.Report{Pass: pass, Pages: testPages, First: guest.NoPage, Seed: 1, ID: 9}
		switch command {
		case guest.CommandPing:
			r.Kind = guest.Pong
		case guest.CommandCheck:
			r.Kind = guest.Check
		case guest.CommandWrite:
			pass++
			r.Kind, r.Pass, r.Pages = guest.Write, pass, 7
		}
		if pass > 4 {
			r.Seed = 77
		}
		change(&r)
		return []guest.Report{r}
	}
}

func TestVerify(t *testing.T) {
	_, talk := newScripted(t, healthy(func(*guest.Report) {}))
	ctx := t.Context()
	if err := testGuest().answer(ctx, talk); err != nil {
		t.Fatal(err)
	}
	got, err := testGuest().verify(ctx, talk)
	if want := (verdict{right: 2 * testPages, id: 9, seed: 77}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestVerifyCountsWrongPages(t *testing.T) {
	_, talk := newScripted(t, healthy(func(r *guest.Report) {
		if r.Kind == guest.Check && r.Pass == 5 {
			r.Bad, r.First = 3, 42
		}
	}))
	got, err := testGuest().verify(t.Context(), talk)
	if want := (verdict{right: 2*testPages - 3, wrong: 3, first: 42, id: 9, seed: 77}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestVerifyRefuses(t *testing.T) {
	tests := map[string]struct {
		answer func(byte) []guest.Report
		says   string
	}{
		"a check of too few pages": {healthy(func(r *guest.Report) {
			if r.Kind == guest.Check {
				r.Pages--
			}
		}), "checked 99 pages instead of 100"},
		"a write of nothing": {healthy(func(r *guest.Report) {
			if r.Kind == guest.Write {
				r.Pages = 0
			}
		}), "its write did not happen"},
		"a write that the check does not know of": {healthy(func(r *guest.Report) {
			if r.Kind == guest.Check {
				r.Pass = 4
			}
		}), "its write did not happen"},
		"a seed that was not the write's": {healthy(func(r *guest.Report) {
			if r.Kind == guest.Check {
				r.Seed = 5
			}
		}), "its write did not happen"},
		"another answer":  {healthy(func(r *guest.Report) { r.Kind = guest.Ready }), "instead of check"},
		"a VMM that ends": {func(byte) []guest.Report { return nil }, "it has ended, killed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, talk := newScripted(t, test.answer)
			_, err := testGuest().verify(t.Context(), talk)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v does not say %q", err, test.says)
			}
		})
	}
}

func TestBootedRefusesAWrongSource(t *testing.T) {
	answer := healthy(func(r *guest.Report) { r.Bad, r.First = 1, 3 })
	s, talk := newScripted(t, answer)
	ready := guest.Report{Kind: guest.Ready, Pages: testPages, First: guest.NoPage}
	if err := os.WriteFile(s.console, []byte(ready.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := testGuest().booted(t.Context(), talk)
	if err == nil || !strings.Contains(err.Error(), "1 of its 100 pages wrong") {
		t.Errorf("error %v", err)
	}
}

func TestLinuxGuest(t *testing.T) {
	tests := []struct {
		args       string
		workingSet uint64
		pages      uint64
		booted     string
	}{
		{"", 16 * mebibyte, 4096, " mib=16"},
		{"", 0, 2048, " mib=8"},
		{"quiet mib=4", 16 * mebibyte, 1024, "quiet mib=4"},
	}
	for _, test := range tests {
		c := Config{Memory: 128 * mebibyte, WorkingSet: test.workingSet, Linux: linux.Guest{Kernel: "vmlinux", BootArgs: test.args}}
		made, err := newLinuxGuest(&c)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		g := made.(linuxGuest)
		if g.pages != test.pages || c.WorkingSet != test.pages*guest.PageSize ||
			strings.Count(g.linux.BootArgs, "mib=") != 1 || !strings.HasSuffix(g.linux.BootArgs, test.booted) || !filepath.IsAbs(g.linux.Kernel) {
			t.Errorf("%+v made %+v", test, g)
		}
	}
	for _, args := range []string{"quiet", "mib=0", "mib=x", "mib=128"} {
		c := Config{Memory: 128 * mebibyte, Linux: linux.Guest{Kernel: "vmlinux", BootArgs: args}}
		if _, err := newLinuxGuest(&c); err == nil {
			t.Errorf("boot arguments %q were taken", args)
		}
	}
}

func TestLinuxGuestVerify(t *testing.T) {
	s, talk := newScripted(t, nil)
	text := "READY mem=8MiB at uptime ms 9\n" +
		"beat 1 up=1 real=2 mem=ok 3ms\nnoise\nbeat 2 up=1 real=2 mem=ok 3ms\nbeat 3 up=1 real=2 mem=BAD:5 3ms\n"
	if err := os.WriteFile(s.console, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := linuxGuest{pages: 2048}
	if err := g.booted(t.Context(), talk); err != nil {
		t.Fatal(err)
	}
	got, err := g.verify(t.Context(), talk)
	if want := (verdict{right: 2*2048 - 5, wrong: 5}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
