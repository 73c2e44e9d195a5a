package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

// serve answers one request to a server of f.
func serve(f *fake, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	New(Config{Manager: f, Subscribe: f.subscribe, Version: "v1", Why: "it was asked for"}).Handler().ServeHTTP(w, r)
	return w
}

func problemOf(t *testing.T, w *httptest.ResponseRecorder) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code == "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v %s: no problem: %v", w.Code, w.Header(), w.Body, err)
	}
	return p
}

func TestRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		code, says         string
	}{
		"an unknown route":           {"GET", "/instance", "", 404, "route_unknown", "/instance"},
		"another method":             {"PUT", "/instances", "", 404, "route_unknown", "PUT"},
		"an unknown field":           {"POST", "/instances", `{"spec":{"kernle":"/k"}}`, 400, "bad_request", "kernle"},
		"a second value":             {"POST", "/instances", `{}{}`, 400, "bad_request", "goes on"},
		"no object":                  {"POST", "/instances/web/stop", `true`, 400, "bad_request", "object"},
		"a body where there is none": {"POST", "/instances/web/start", `{}`, 400, "bad_request", "no body"},
		"a source in the body":       {"POST", "/instances/web/fork", `{"source":"x"}`, 400, "bad_request", "source"},
		"a body that is too large":   {"POST", "/instances/web/input", `{"data":"` + strings.Repeat("A", 1<<21) + `"}`, 413, "body_too_large", "exceeds"},
		"an unknown parameter":       {"GET", "/instances?all=1", "", 400, "bad_request", "all"},
		"an unknown log":             {"GET", "/instances/web/logs?source=secrets", "", 400, "bad_request", "console or vmm"},
		"a tail that is no number":   {"GET", "/instances/web/logs?tail=-1", "", 400, "bad_request", "tail"},
		"a bool that is none":        {"GET", "/instances/web/logs?follow=maybe", "", 400, "bad_request", "follow"},
		"an unknown instance":        {"GET", "/instances/nobody", "", 404, "not_found", "nobody"},
		"its logs":                   {"GET", "/instances/nobody/logs", "", 404, "not_found", "nobody"},
		"its events":                 {"GET", "/events?instance=nobody", "", 404, "not_found", "nobody"},
		"a wait that takes long":     {"GET", "/instances/web/wait?state=paused&timeout_ms=5", "", 408, "timeout", "web"},
		"a wait that is too long":    {"GET", "/instances/web/wait?timeout_ms=999999999", "", 400, "bad_request", "timeout_ms"},
	} {
		f := &fake{}
		w := serve(f, test.method, test.path, test.body)
		p := problemOf(t, w)
		if w.Code != test.status || p.Status != test.status || p.Code != test.code || !strings.Contains(p.Error(), test.says) || p.Remedy == "" {
			t.Errorf("%s: %d %+v", name, w.Code, p)
		}
		if calls := f.asked(t); len(calls) != 0 {
			t.Errorf("%s: the manager was asked %v", name, calls)
		}
	}
}

func TestRequestsReachTheManager(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		want               any
	}{
		"create": {"POST", "/instances", `{"name":"web","spec":{"kernel":"/k","vcpus":2,"memory_bytes":1048576,"drives":[{"id":"a","source":"/a","root":true}]}}`, 201,
			instance.CreateRequest{Name: "web", Spec: instance.Spec{Kernel: "/k", VCPUs: 2, MemoryBytes: 1 << 20, Drives: []instance.Drive{{ID: "a", Source: "/a", Root: true}}}}},
		"stop":          {"POST", "/instances/web/stop", `{"force":true}`, 200, instance.StopRequest{Force: true}},
		"stop, no body": {"POST", "/instances/web/stop", "", 200, instance.StopRequest{}},
		"restore":       {"POST", "/instances/web/restore", `{"backend":"uffd","paused":true}`, 200, instance.RestoreRequest{Backend: instance.Uffd, Paused: true}},
		"fork":          {"POST", "/instances/web/fork", `{"count":2,"names":["x"],"identity":"AAE="}`, 201, instance.ForkRequest{Source: "web", Count: 2, Names: []string{"x"}, Identity: []byte{0, 1}}},
		"input":         {"POST", "/instances/web/input", `{"data":"Yw=="}`, 204, "c"},
	} {
		f := &fake{}
		w := serve(f, test.method, test.path, test.body)
		if w.Code != test.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if diff := cmp.Diff([]any{test.want}, f.asked(t)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAnswers(t *testing.T) {
	f := &fake{state: instance.Running}
	for path, want := range map[string]string{
		"/version":                               `{"version":"v1","hypervisor":"fcsim","hypervisor_version":"v1.16.1","snapshot_version":"v10.0.0","why":"it was asked for"}`,
		"/instances/web":                         `{"id":"0123abcd","name":"web","state":"running","created":"1970-01-01T00:00:01Z","dir":"","spec":{"kernel":"","vcpus":0,"memory_bytes":0},"pid":7}`,
		"/instances/0123abcd/wait?state=running": `"gone":false`,
		"/instances":                             `{"instances":[{"id":"0123abcd"`,
		"/healthz":                               `"instances":{"running":1}`,
		"/openapi.yaml":                          "openapi: 3.1.0",
	} {
		if w := serve(f, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestForksTellForThemselves(t *testing.T) {
	w := serve(&fake{state: instance.Running}, "POST", "/instances/web/fork", `{"count":2}`)
	var got api.Forks
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 201 || len(got.Forks) != 2 {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	if a, b := got.Forks[0], got.Forks[1]; a.Instance == nil || a.Problem != nil || b.Instance != nil || b.Problem == nil || b.Problem.Code != "no_space" {
		t.Errorf("%s", w.Body)
	}
	w = serve(&fake{fail: problem.New(409, instance.CodeWrongState, "allowed now: start", "web is stopped")}, "POST", "/instances/web/fork", "")
	if p := problemOf(t, w); p.Code != instance.CodeWrongState || p.Remedy != "allowed now: start" {
		t.Errorf("%+v", p)
	}
}

func TestDeletingTwice(t *testing.T) {
	for path, want := range map[string]string{"/instances/web": `{"deleted":true}`, "/instances/gone": `{"deleted":false}`} {
		if w := serve(&fake{}, "DELETE", path, ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := serve(&fake{fail: problem.New(409, instance.CodeAmbiguous, "write more of it", "two begin so")}, "DELETE", "/instances/0", ""); w.Code != 409 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestErrorsThatAreNoProblems(t *testing.T) {
	w := serve(&fake{fail: errors.New("the disk is on fire")}, "POST", "/instances/web/start", "")
	if p := problemOf(t, w); w.Code != 500 || p.Code != "internal" || !strings.Contains(p.Detail, "fire") {
		t.Errorf("%d %+v", w.Code, p)
	}
}

// A client that accepts the stream gets the steps of its own request, and the result
// as the last line.
func TestStream(t *testing.T) {
	step := func(step string) instance.Event {
		return instance.Event{Kind: instance.EventStep, Operation: instance.OpStart, Step: step}
	}
	f := &fake{state: instance.Running, steps: []instance.Event{step("boot"), step("record")}}
	w := serve(f, "POST", "/instances/web/start", "", "Accept", api.StreamType)
	if w.Code != 200 || w.Header().Get("Content-Type") != api.StreamType {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	var steps []string
	var result instance.Instance
	for line := range bytes.Lines(w.Body.Bytes()) {
		var m api.Message
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		switch {
		case m.Progress != nil:
			steps = append(steps, m.Progress.Step)
		case json.Unmarshal(m.Result, &result) != nil:
			t.Errorf("%s", line)
		}
	}
	if diff := cmp.Diff([]string{"start: boot", "start: record"}, steps); diff != "" || result.Name != "web" {
		t.Errorf("%s, result %+v", diff, result)
	}
}

// An error from before the first line is a plain problem.
func TestProblemInsteadOfAStream(t *testing.T) {
	w := serve(&fake{fail: errors.New("no")}, "POST", "/instances/web/start", "", "Accept", api.StreamType)
	if problemOf(t, w); w.Code != 500 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// The end of what the source does first is no fork's.
func TestForkProgressCounts(t *testing.T) {
	report := forksOf(instance.ForkRequest{Count: 2}, "source")
	event := func(kind instance.EventKind, id string) instance.Event {
		return instance.Event{Kind: kind, Instance: id, Operation: instance.OpFork, Step: "x"}
	}
	for i, test := range []struct {
		event instance.Event
		want  api.Progress
		ok    bool
	}{
		{event(instance.EventStep, "source"), api.Progress{Step: "fork: x"}, true},
		{event(instance.EventDone, "source"), api.Progress{}, false},
		{event(instance.EventStep, "f"), api.Progress{}, false},
		{event(instance.EventDone, "f"), api.Progress{Step: "fork", Done: 1, Total: 2}, true},
		{event(instance.EventDone, "g"), api.Progress{Step: "fork", Done: 2, Total: 2}, true},
	} {
		if p, ok := report(test.event); ok != test.ok || ok && p != test.want {
			t.Errorf("%d: %+v %v", i, p, ok)
		}
	}
}

func TestEvents(t *testing.T) {
	f := &fake{events: []instance.Event{{Seq: 1, Kind: instance.EventCreated, Instance: "0123abcd"}, {Seq: 2, Kind: instance.EventCreated, Instance: "other"}, {Seq: 3, Kind: instance.EventDeleted, Instance: "0123abcd"}}}
	for query, want := range map[string][]uint64{"": {1, 2, 3}, "?instance=web": {1, 3}} {
		server := New(Config{Manager: f, Subscribe: f.subscribe})
		web := httptest.NewServer(server.Handler())
		resp, err := http.Get(web.URL + "/events" + query)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		decoder := json.NewDecoder(resp.Body)
		for range want {
			var e instance.Event
			if err := decoder.Decode(&e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Seq)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", query, diff)
		}
		server.EndStreams()
		if err := decoder.Decode(&instance.Event{}); !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %v", err)
		}
		resp.Body.Close()
		web.Close()
	}
}

// After the first line the status has been sent, and the problem is the last line.
func TestProblemBehindProgress(t *testing.T) {
	w := httptest.NewRecorder()
	a := &answer{w: w, status: 201, stream: true}
	a.progress(api.Progress{Step: "boot", Done: 1, Total: 2})
	a.fail(problem.New(409, "wrong_state", "", "no"))
	want := `{"progress":{"step":"boot","done":1,"total":2}}` + "\n" + `{"problem":{"code":"wrong_state","status":409,"detail":"no"}}` + "\n"
	if w.Code != 201 || w.Body.String() != want || !w.Flushed {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	f := &fake{dir: dir, state: instance.Running}
	if w := serve(f, "GET", "/instances/web/logs", ""); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("without a log: %d %s", w.Code, w.Body)
	}
	text := "one\ntwo\nthree\nhalf"
	if err := os.WriteFile(filepath.Join(dir, "console.log"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"": text, "?tail=1": "half", "?tail=2": "three\nhalf", "?tail=4": text, "?tail=100000": text, "?source=vmm": "",
	} {
		if w := serve(f, "GET", "/instances/web/logs"+query, ""); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q", query, w.Code, w.Body)
		}
	}
}

// A log is followed until the VMM ends, or streams are to end.
func TestFollow(t *testing.T) {
	for name, end := range map[string]func(*fake, *Server){
		"the VMM ends": func(f *fake, _ *Server) { f.setState(instance.Standby) },
		"streams end":  func(_ *fake, s *Server) { s.EndStreams() },
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{dir: t.TempDir(), state: instance.Running}
			path := filepath.Join(f.dir, "console.log")
			if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			api := New(Config{Manager: f})
			web := httptest.NewServer(api.Handler())
			defer web.Close()
			resp, err := http.Get(web.URL + "/instances/web/logs?follow=true")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			if line, err := lines.ReadString('\n'); err != nil || line != "before\n" {
				t.Fatalf("%q %v", line, err)
			}
			file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, err := file.WriteString("after\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := lines.ReadString('\n'); err != nil || line != "after\n" {
				t.Fatalf("%q %v", line, err)
			}
			end(f, api)
			if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
				t.Errorf("%q %v", rest, err)
			}
		})
	}
}

// FuzzBodies sends what it likes to every route with a body: the answer is the
// manager's or a problem of the request, and never a failure inside.
func FuzzBodies(f *testing.F) {
	f.Add(`{"name":"web","spec":{"kernel":"/k","vcpus":1,"memory_bytes":1048576}}`)
	f.Add(`{"count":3,"names":["a"],"target":"standby","taps":[{"id":"eth0","tap":"t"}],"identity":"AA=="}`)
	f.Add(`{"force":true}`)
	f.Add(`{"backend":"uffd","paused":true}`)
	f.Add(`{"data":"!"}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/instances", "/instances/web/stop", "/instances/web/restore", "/instances/web/fork", "/instances/web/input"} {
			w := serve(&fake{}, "POST", path, body)
			if w.Code >= 300 && problemOf(t, w).Status != w.Code || w.Code >= 500 {
				t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
			}
		}
	})
}
