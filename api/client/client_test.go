package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// daemon answers on a unix socket, and returns a client of it.
func daemon(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	dir := shortdir.Make(t)
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	c := New(filepath.Join(dir, "s"))
	t.Cleanup(c.Close)
	return c
}

// write answers with a media type and a text.
func write(w http.ResponseWriter, status int, mediaType, text string) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	fmt.Fprint(w, text)
}

// Every call asks the route that the document has for it.
func TestCalls(t *testing.T) {
	var asked string
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(body))
		write(w, 200, "application/json", "{}")
	})
	ctx := t.Context()
	do := func(_ any, err error) error { return err }
	for want, call := range map[string]func() error{
		"GET /healthz":                              func() error { return do(c.Health(ctx)) },
		"GET /version":                              func() error { return do(c.Version(ctx)) },
		"GET /instances":                            func() error { return do(c.Instances(ctx)) },
		"GET /instances/a%2Fb%3F":                   func() error { return do(c.Instance(ctx, "a/b?")) },
		"POST /instances/a/start":                   func() error { return do(c.Start(ctx, "a")) },
		"POST /instances/a/pause":                   func() error { return do(c.Pause(ctx, "a")) },
		"POST /instances/a/resume":                  func() error { return do(c.Resume(ctx, "a")) },
		"POST /instances/a/standby":                 func() error { return do(c.Standby(ctx, "a")) },
		"DELETE /instances/a":                       func() error { return do(c.Delete(ctx, "a")) },
		"GET /snapshots":                            func() error { return do(c.Snapshots(ctx)) },
		"GET /snapshots/a":                          func() error { return do(c.Snapshot(ctx, "a")) },
		"DELETE /snapshots/a":                       func() error { return do(c.DeleteSnapshot(ctx, "a")) },
		`POST /instances/a/input {"data":"Yw=="}`:   func() error { return c.Send(ctx, "a", []byte("c")) },
		`POST /instances/a/stop {"force":true}`:     func() error { return do(c.Stop(ctx, "a", instance.StopRequest{Force: true})) },
		`POST /instances/a/fork {"count":2}`:        func() error { return do(c.Fork(ctx, instance.ForkRequest{Source: "a", Count: 2})) },
		`POST /snapshots/a/fork {"count":2}`:        func() error { return do(c.ForkSnapshot(ctx, "a", instance.ForkRequest{Count: 2})) },
		`POST /instances/a/snapshot {"name":"b"}`:   func() error { return do(c.CreateSnapshot(ctx, "a", instance.SnapshotRequest{Name: "b"})) },
		`POST /instances/a/restore {"paused":true}`: func() error { return do(c.Restore(ctx, "a", instance.RestoreRequest{Paused: true})) },
		`POST /snapshots/a/restore {}`:              func() error { return do(c.RestoreSnapshot(ctx, "a", instance.RestoreRequest{})) },
		`POST /instances {"spec":{"kernel":"/k","vcpus":1,"memory_bytes":5}}`: func() error {
			return do(c.Create(ctx, instance.CreateRequest{Spec: instance.Spec{Kernel: "/k", VCPUs: 1, MemoryBytes: 5}}))
		},
		"GET /instances/a/wait?state=running&state=failed&timeout_ms=1500": func() error {
			return do(c.Wait(ctx, "a", 1500*time.Millisecond, instance.Running, instance.Failed))
		},
		"GET /instances/a/logs?follow=true&source=vmm&tail=3": func() error {
			return c.Logs(ctx, "a", LogOptions{Source: "vmm", Tail: 3, Follow: true}, io.Discard)
		},
	} {
		if err := call(); err != nil || asked != want {
			t.Errorf("asked %q, want %q: %v", asked, want, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "s")
	if listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead}); err != nil {
		t.Fatal(err)
	} else {
		listener.SetUnlinkOnClose(false)
		listener.Close()
	}
	for _, socket := range []string{filepath.Join(dir, "none"), dead} {
		if _, err := New(socket).Health(t.Context()); !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s: %v", socket, err)
		}
	}
}

func TestProblems(t *testing.T) {
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		write(w, 409, "application/problem+json", `{"code":"wrong_state","status":409,"detail":"web is stopped","remedy":"allowed now: start"}`)
	})
	_, err := c.Pause(t.Context(), "web")
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != instance.CodeWrongState || p.Remedy != "allowed now: start" {
		t.Errorf("%v", err)
	}
	c = daemon(t, func(w http.ResponseWriter, r *http.Request) { write(w, 502, "text/html", "<h1>no</h1>") })
	if _, err := c.Pause(t.Context(), "web"); err == nil || errors.As(err, &p) && p.Status == 502 || !strings.Contains(err.Error(), "502") {
		t.Errorf("%v", err)
	}
}

func TestProgress(t *testing.T) {
	answers := map[string]string{
		"good":   `{"progress":{"step":"boot"}}` + "\n" + `{"progress":{"step":"load","done":1,"total":2}}` + "\n" + `{"result":{"name":"web"}}` + "\n",
		"bad":    `{"progress":{"step":"boot"}}` + "\n" + `{"problem":{"code":"step_failed","status":500,"detail":"no"}}` + "\n",
		"broken": `{"progress":{"step":"boot"}}` + "\n",
		"torn":   `{"progress":{"step"`,
	}
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != api.StreamType {
			t.Errorf("accepts %q", r.Header.Get("Accept"))
		}
		write(w, 200, api.StreamType, answers[strings.Split(r.URL.Path, "/")[2]])
	})
	var steps []api.Progress
	c = c.Reporting(func(p api.Progress) { steps = append(steps, p) })
	web, err := c.Start(t.Context(), "good")
	if diff := cmp.Diff([]api.Progress{{Step: "boot"}, {Step: "load", Done: 1, Total: 2}}, steps); err != nil || web.Name != "web" || diff != "" {
		t.Errorf("%+v %v %s", web, err, diff)
	}
	var p *api.Problem
	if _, err := c.Start(t.Context(), "bad"); !errors.As(err, &p) || p.Code != "step_failed" {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"broken", "torn"} {
		if _, err := c.Start(t.Context(), name); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLogsAndEvents(t *testing.T) {
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/logs") {
			write(w, 200, "text/plain", "one\ntwo\n")
			return
		}
		if r.URL.RawQuery != "instance=w%26b" {
			t.Errorf("asked for %q", r.URL.RawQuery)
		}
		write(w, 200, api.StreamType, `{"seq":1,"time":"2026-01-01T00:00:00Z","kind":"created"}`+"\n"+`{"seq":2,"time":"2026-01-01T00:00:00Z","kind":"deleted"}`+"\n")
	})
	var out bytes.Buffer
	if err := c.Logs(t.Context(), "web", LogOptions{}, &out); err != nil || out.String() != "one\ntwo\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	var seqs []uint64
	begun := false
	err := c.Events(t.Context(), "w&b", func() { begun = true }, func(e instance.Event) error {
		seqs = append(seqs, e.Seq)
		return nil
	})
	if diff := cmp.Diff([]uint64{1, 2}, seqs); diff != "" || !errors.Is(err, io.ErrUnexpectedEOF) || !begun {
		t.Errorf("%s, %v", diff, err)
	}
	enough := errors.New("enough")
	if err := c.Events(t.Context(), "w&b", nil, func(instance.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

// The end of the context ends a request under way.
func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
		close(left)
	})
	if _, err := c.Start(ctx, "web"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-left
}
