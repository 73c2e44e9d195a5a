package pager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// call sends one request to a pager's control API and returns status and body.
func call(p *Pager, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestControlAPIRefusesBadInput(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	quoted, _ := json.Marshal(manifest)
	image := string(quoted)
	create(t, p, control.SessionRequest{ID: "taken", Image: manifest})
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		code, says               string
	}{
		{"empty body", "POST", "/sessions", ``, 400, "bad_request", "empty"},
		{"not JSON", "POST", "/sessions", `hello`, 400, "bad_request", "JSON"},
		{"unknown field", "POST", "/sessions", `{"id":"a","image":` + image + `,"colour":"red"}`, 400, "bad_request", "colour"},
		{"two objects", "POST", "/sessions", `{"id":"a","image":` + image + `} {}`, 400, "bad_request", "goes on"},
		{"oversized", "POST", "/sessions", `{"id":"` + strings.Repeat("a", control.MaxBody) + `"}`, 413, "body_too_large", "exceeds"},
		{"no id", "POST", "/sessions", `{"image":` + image + `}`, 400, "bad_request", "session id"},
		{"id with path characters", "POST", "/sessions", `{"id":"../../etc/x","image":` + image + `}`, 400, "bad_request", "session id"},
		{"hidden id", "POST", "/sessions", `{"id":"..","image":` + image + `}`, 400, "bad_request", "session id"},
		{"relative image", "POST", "/sessions", `{"id":"a","image":"memory.json"}`, 400, "bad_request", "absolute"},
		{"overlay within a page", "POST", "/sessions", `{"id":"a","image":` + image + `,"overlays":[{"offset":5,"data":"AA=="}]}`, 400, "bad_request", "multiple"},
		{"overlay without data", "POST", "/sessions", `{"id":"a","image":` + image + `,"overlays":[{"offset":0,"data":""}]}`, 400, "bad_request", "0 bytes"},
		{"overlay twice", "POST", "/sessions", `{"id":"a","image":` + image + `,"overlays":[{"offset":0,"data":"AA=="},{"offset":0,"data":"AA=="}]}`, 400, "bad_request", "two overlays"},
		{"overlay behind the image", "POST", "/sessions", `{"id":"a","image":` + image + `,"overlays":[{"offset":32768,"data":"AA=="}]}`, 400, "bad_request", "beyond the memory image"},
		{"negative deadline", "POST", "/sessions", `{"id":"a","image":` + image + `,"connect_timeout_ms":-1}`, 400, "bad_request", "connect_timeout_ms"},
		{"id taken", "POST", "/sessions", `{"id":"taken","image":` + image + `}`, 409, "session_exists", "taken"},
		{"missing image", "POST", "/sessions", `{"id":"a","image":"/nowhere/memory.json"}`, 404, "image_missing", "/nowhere/memory.json"},
		{"close of an unknown session", "POST", "/sessions/nobody/close", ``, 404, "session_unknown", "nobody"},
		{"unknown session", "GET", "/sessions/nobody", ``, 404, "session_unknown", "nobody"},
		{"unknown route", "GET", "/nothing", ``, 404, "route_unknown", "/nothing"},
		{"wrong method", "DELETE", "/sessions", ``, 404, "route_unknown", "DELETE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := call(p, test.method, test.path, test.body)
			var got problem.Problem
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%d %s: %v", status, body, err)
			}
			if status != test.status || got.Code != test.code || !strings.Contains(got.Detail, test.says) {
				t.Errorf("got %d %s", status, body)
			}
			if len(body) > 2000 {
				t.Errorf("the answer repeats %d bytes", len(body))
			}
		})
	}
	if s := p.Sessions().Sessions; len(s) != 1 {
		t.Errorf("refused requests left sessions: %+v", s)
	}
	if p.images.Len() != 1 {
		t.Errorf("refused requests left %d images open", p.images.Len()-1)
	}
}

func TestBadImages(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	layer := func(manifest string) string {
		m, err := memimage.ReadManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(filepath.Dir(manifest), m.Layers[0].File)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name  string
		spoil func(manifest string) error
		says  string
	}{
		{"empty manifest", func(m string) error { return os.Truncate(m, 0) }, "memory.json"},
		{"missing layer", func(m string) error { return os.Remove(layer(m)) }, ".mem"},
		{"empty layer", func(m string) error { return os.Truncate(layer(m), 0) }, ".mem"},
		{"truncated layer", func(m string) error { return os.Truncate(layer(m), 5000) }, ".mem"},
		{"missing index", func(m string) error { return os.Remove(strings.TrimSuffix(layer(m), ".mem") + ".idx") }, ".idx"},
		{"a directory", func(m string) error { return errors.Join(os.Remove(m), os.Mkdir(m, 0o700)) }, "memory.json"},
		{"unreadable layer", func(m string) error { return os.Chmod(layer(m), 0) }, ".mem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "unreadable layer" && os.Geteuid() == 0 {
				t.Skip("root reads every file; run this test as an ordinary user")
			}
			manifest, _ := sealed(t, 8, 1, everyPage)
			if err := test.spoil(manifest); err != nil {
				t.Fatal(err)
			}
			_, err := p.Create(control.SessionRequest{ID: "a", Image: manifest})
			if got := problem.From(err); err == nil || got.Status >= 500 || !strings.Contains(got.Detail, test.says) {
				t.Errorf("creating a session gave %v", err)
			}
		})
	}
}

func TestSocketPathTooLong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	p, err := New(Config{DataDir: dir, CacheMaxBytes: MinCacheBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	manifest, _ := sealed(t, 8, 1, everyPage)
	if _, err := p.Create(control.SessionRequest{ID: "a", Image: manifest}); problem.From(err).Code != "path_too_long" {
		t.Errorf("creating a session gave %v", err)
	}
}

func TestDrain(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, content := sealed(t, 8, 1, everyPage)
	vmm := startFaulter(t, pagesOf(8))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	if status, body := call(p, "POST", "/drain", ""); status != http.StatusAccepted || !strings.Contains(body, "draining") {
		t.Fatalf("drain gave %d %s", status, body)
	}
	if _, err := p.Create(control.SessionRequest{ID: "b", Image: manifest}); problem.From(err).Code != "draining" {
		t.Errorf("create while draining gave %v", err)
	}
	wantMemory(t, vmm, content) // goes on
	select {
	case <-p.Drained():
		t.Fatal("drained with an active session")
	default:
	}
	if err := vmm.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Drained():
	case <-time.After(patience):
		t.Fatal("the last session is over, but the pager is not drained")
	}
}

func TestOnePagerPerDirectory(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	stale := filepath.Join(p.sessionDir(), "dead.sock")
	if _, err := New(p.cfg); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second pager gave %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	next, err := New(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead pager's socket is left: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestRun goes through the process's life with the client that others use.
func TestRun(t *testing.T) {
	dir := shortdir.Make(t)
	manifest, content := sealed(t, 64, 1, evenPages)
	ran := make(chan error, 1)
	go func() {
		ran <- Run(context.Background(), Config{DataDir: dir, CacheMaxBytes: MinCacheBytes, Log: testLog(t)})
	}()
	c := client.New(ControlSocket(dir, Version()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		h, err := c.Health(ctx)
		if err == nil {
			if h.Status != "ok" || h.Version != Version() || h.PID != os.Getpid() {
				t.Errorf("health %+v", h)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(ControlSocket(dir, Version())); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the control socket is %v, %v", info.Mode(), err)
	}
	s, err := c.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the session's socket is %v, %v", info.Mode(), err)
	}
	vmm := startFaulter(t, pagesOf(64))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, vmm, content)
	st, err := c.Stats(ctx)
	if err != nil || st.Sessions.Active != 1 || st.Total.CopiedPages != 32 || st.Total.Latency.P50 <= 0 || st.Process.ResidentBytes == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	if _, err := c.Session(ctx, "nobody"); !errors.Is(err, &problem.Problem{Code: "session_unknown"}) {
		t.Errorf("an unknown session gave %v", err)
	}
	if list, err := c.Sessions(ctx); err != nil || len(list) != 1 {
		t.Errorf("sessions %+v, %v", list, err)
	}
	if _, err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err = c.CloseSession(ctx, "a"); err != nil || s.State != control.Ended {
		t.Errorf("close gave %+v, %v", s, err)
	}
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Health(ctx); err == nil {
		t.Error("a drained pager still answers")
	}
}

func TestMainRefusesBadArguments(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--data-dir", "/tmp/x", "--cache-max-bytes", "much"}, {"--data-dir", "/tmp/x", "--cache-max-bytes", "10KiB"},
		{"--data-dir", "/tmp/x", "--cache-max-bytes", "-1GiB"}, {"--data-dir", "/tmp/x", "--log-format", "xml"},
		{"--data-dir", "/tmp/x", "surplus"}, {"--unknown"}, {"--data-dir", "/tmp/x", "--as", "../y"},
	} {
		var stderr bytes.Buffer
		if code := Main(args, io.Discard, &stderr); code == 0 || stderr.Len() == 0 {
			t.Errorf("%q: exit status %d, %q", args, code, stderr.String())
		}
	}
	var stdout bytes.Buffer
	if code := Main([]string{"--version"}, &stdout, io.Discard); code != 0 || stdout.String() != "faultline-pager "+Version()+"\n" {
		t.Errorf("--version: %d, %q", code, stdout.String())
	}
}

// A request that was given up must leave no session, whether its maker closes the
// session meanwhile or nobody does.
func TestCreateThatWasGivenUp(t *testing.T) {
	p := newTestPager(t, MinCacheBytes)
	manifest, _ := sealed(t, 8, 1, everyPage)
	body, err := json.Marshal(control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	p.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", "/sessions", bytes.NewReader(body)))
	if s, err := p.Session("a"); err != nil || s.State != control.Ended {
		t.Errorf("the session of a request that was given up is %+v, %v", s, err)
	}

	if err := p.admit("b"); err != nil { // as in the middle of its making
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { _, err := p.CloseSession("b"); closed <- err }()
	select {
	case err := <-closed:
		t.Fatalf("a session in the making was closed at once: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	p.mu.Lock()
	p.opened("b")
	p.mu.Unlock()
	if err := <-closed; problem.From(err).Code != "session_unknown" {
		t.Errorf("a session that was not made after all: %v", err)
	}
}
