package fleet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
)

// journal makes what a session's journal looks like from outside.
func journal(t *testing.T, dataDir, version, id string) string {
	t.Helper()
	dir := filepath.Join(pager.Dir(dataDir, version), "sessions", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	if places, err := Places(dir); err != nil || len(places) > 0 {
		t.Errorf("of a directory that no pager has used: %v, %v", places, err)
	}
	a := journal(t, dir, "1", "a")
	journal(t, dir, "2", "b")
	for _, file := range []string{filepath.Join(pager.Dir(dir, "2"), "sessions", "b.sock"), choicePath(dir)} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"a": "1", "b": "2"}
	places, err := Places(dir)
	if diff := cmp.Diff(want, places); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	for id, version := range map[string]string{"a": "1", "b": "2", "c": "", "": "", "../sessions/a": "", ".": ""} {
		if got, ok, err := Place(dir, id); got != version || ok != (version != "") || err != nil {
			t.Errorf("place of %q: %q, %v, %v", id, got, ok, err)
		}
	}
	// A handover.
	if err := os.Rename(a, filepath.Join(pager.Dir(dir, "2"), "sessions", "a")); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Place(dir, "a"); got != "2" || err != nil {
		t.Errorf("after the handover: %s, %v", got, err)
	}
}

func TestCurrent(t *testing.T) {
	dir := t.TempDir()
	is := func(want string) {
		t.Helper()
		if got, err := Current(dir); err != nil || got != want {
			t.Errorf("current is %q, %v; want %s", got, err, want)
		}
	}
	is(pager.Version())
	if err := Choose(dir, "98.7.6"); err != nil {
		t.Fatal(err)
	}
	is("98.7.6")
	// What the Faultline before this one was told does not hold.
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(choicePath(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(`{"version":"98.7.6","instead":"0.0.1"}`)
	is(pager.Version())
	for _, text := range []string{"", "{", `{"version":"../x","instead":"1"}`, `{"version":"1"}`, `{"version":"1","instead":"1","more":1}`} {
		put(text)
		if got, err := Current(dir); err == nil || !strings.Contains(err.Error(), choicePath(dir)) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzDecodeChoice(f *testing.F) {
	f.Add([]byte(`{"version":"0.2.0","instead":"0.1.0"}`))
	f.Add([]byte(`{"version":"../x","instead":""}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeChoice(data)
		if err == nil && (c.Version == "" || c.Instead == "" || strings.ContainsAny(c.Version+c.Instead, "/\x00")) {
			t.Errorf("%q became %+v", data, c)
		}
	})
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "faultline-pager")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho faultline-pager 98.7.6\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Program(t.Context(), program, "98.7.6"); err != nil || got != program {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := Program(t.Context(), program, "1.2.3"); err == nil || !strings.Contains(err.Error(), "98.7.6") || !strings.Contains(err.Error(), "make install") {
		t.Errorf("of another version: %s, %v", got, err)
	}
	if _, err := ProgramVersion(t.Context(), "/bin/echo"); err == nil || !strings.Contains(err.Error(), "/bin/echo is no pager") {
		t.Errorf("of something else: %v", err)
	}
}

// Without pagers everything says so.
func TestNobody(t *testing.T) {
	dir := t.TempDir()
	journal(t, dir, "98.7.6", "frozen")
	list, err := List(t.Context(), dir)
	want := []Pager{{Version: "98.7.6", Status: Down, Reason: "guests stand still until it runs", Sessions: 1}}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	code := func(err error) string { return problem.From(err).Code }
	if _, err := Drain(t.Context(), dir, "98.7.6"); code(err) != CodeNoPager {
		t.Errorf("drain: %v", err)
	}
	if _, err := Detach(t.Context(), dir, "frozen", nil); code(err) != CodeNoPager || !strings.Contains(err.Error(), "--to 98.7.6") {
		t.Errorf("detach: %v", err)
	}
	if _, err := Detach(t.Context(), dir, "nobody", nil); code(err) != CodeNoSession {
		t.Errorf("detach of nobody: %v", err)
	}
	broken := errors.New("no program")
	fail := func(context.Context, string) error { return broken }
	if _, err := Upgrade(t.Context(), dir, "1", fail, nil); !errors.Is(err, broken) {
		t.Errorf("upgrade: %v", err)
	}
	if _, err := os.Stat(choicePath(dir)); err == nil {
		t.Error("an upgrade that failed was chosen")
	}
}
