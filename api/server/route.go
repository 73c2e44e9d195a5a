package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/internal/strictjson"
)

// Route is one route of the API, as data: a test compares all of them with the
// OpenAPI document.
type Route struct {
	Method, Path string
	// Status is that of a success.
	Status int
	// Query are the names of the query's parameters. Others are refused.
	Query []string
	// Body and Result are the types of the JSON bodies, nil where there are none.
	Body, Result reflect.Type
	// Long routes report progress to a client that accepts api.StreamType.
	Long bool

	serve func(Route, http.ResponseWriter, *http.Request)
}

// request is what a function behind a route gets.
type request struct {
	*http.Request
	progress api.Report
	stream   bool // somebody listens to the progress
}

// id is the reference in the path: an id, a unique prefix of one, or a name.
func (r request) id() string { return r.PathValue("id") }

// none is the body of a request or an answer that has none.
type none struct{}

// plain makes a route of a handler that writes something else than one JSON value.
func plain(method, path string, serve http.HandlerFunc) Route {
	return Route{Method: method, Path: path, Status: http.StatusOK, serve: func(_ Route, w http.ResponseWriter, r *http.Request) { serve(w, r) }}
}

// handle makes a route of a function from a decoded body to a result.
func handle[Body, Result any](method, path string, status int, fn func(request, Body) (Result, error)) Route {
	route := Route{Method: method, Path: path, Status: status}
	if result := reflect.TypeFor[Result](); result != reflect.TypeFor[none]() {
		route.Result = result
	}
	if body := reflect.TypeFor[Body](); body != reflect.TypeFor[none]() {
		route.Body = body
	}
	route.serve = func(route Route, w http.ResponseWriter, r *http.Request) {
		a := &answer{w: w, status: status, stream: route.Long && accepts(r, api.StreamType)}
		body, err := decode[Body](r, route.Body != nil)
		if err != nil {
			a.fail(err)
			return
		}
		result, err := fn(request{r, a.progress, a.stream}, body)
		if err != nil {
			a.fail(err)
			return
		}
		if route.Result == nil {
			w.WriteHeader(status)
			return
		}
		a.succeed(result)
	}
	return route
}

// long marks a route whose work takes longer than a person likes to wait in the dark.
func (r Route) long() Route {
	r.Long = true
	return r
}

// query names the route's parameters.
func (r Route) query(names ...string) Route {
	r.Query = names
	return r
}

// checked is the route's handler behind the checks that are the same for all.
func (r Route) checked(w http.ResponseWriter, req *http.Request) {
	for name := range req.URL.Query() {
		if !slices.Contains(r.Query, name) {
			remedy := "this route has none"
			if len(r.Query) > 0 {
				remedy = "use " + strings.Join(r.Query, ", ")
			}
			problem.Write(w, badRequest(remedy, "unknown query parameter %.80q", name))
			return
		}
	}
	r.serve(r, w, req)
}

// decode reads the body. A route whose body has no required field may get none; one
// that has no body must.
func decode[Body any](r *http.Request, wanted bool) (body Body, err error) {
	if !wanted {
		if n, _ := r.Body.Read(make([]byte, 1)); n > 0 {
			return body, badRequest("send none", "%s %s has no body", r.Method, r.URL.Path)
		}
		return body, nil
	}
	if r.ContentLength != 0 {
		err = strictjson.Decode(r.Body, &body, "GET /openapi.yaml documents the fields")
	}
	if check, ok := any(&body).(interface{ Validate() error }); ok && err == nil {
		err = check.Validate()
	}
	return body, err
}

func accepts(r *http.Request, mediaType string) bool {
	return slices.ContainsFunc(r.Header.Values("Accept"), func(v string) bool { return strings.Contains(v, mediaType) })
}

// answer writes what a function reports and returns. Without a stream that is one
// JSON value with the status; with one, a line per report and the result, and the
// status tells only of what failed before the first report.
//
// The steps of one operation may report from several goroutines, but not after the
// function has returned.
type answer struct {
	w      http.ResponseWriter
	status int
	stream bool

	mu      sync.Mutex
	started bool // a line has been written; protected by mu, as is writing to w
}

func (a *answer) progress(p api.Progress) {
	if a.stream {
		a.line(api.Message{Progress: &p})
	}
}

func (a *answer) succeed(result any) {
	if !a.stream {
		writeJSON(a.w, a.status, result)
		return
	}
	text, err := json.Marshal(result)
	if err != nil {
		a.fail(fmt.Errorf("encode the result: %w", err))
		return
	}
	a.line(api.Message{Result: text})
}

func (a *answer) fail(err error) {
	a.mu.Lock()
	started := a.started
	a.mu.Unlock()
	if !started {
		problem.Write(a.w, err)
		return
	}
	a.line(api.Message{Problem: problem.From(err)})
}

// line writes one line of the stream. The peer may be gone: then the request's
// context ends, and with it the work.
func (a *answer) line(m api.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.started {
		a.started = true
		a.w.Header().Set("Content-Type", api.StreamType)
		a.w.WriteHeader(a.status)
	}
	if json.NewEncoder(a.w).Encode(m) == nil {
		_ = http.NewResponseController(a.w).Flush()
	}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The peer may be gone; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(value)
}

func badRequest(remedy, detail string, args ...any) error {
	return problem.New(http.StatusBadRequest, "bad_request", remedy, detail, args...)
}
