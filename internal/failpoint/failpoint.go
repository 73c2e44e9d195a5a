// Package failpoint lets tests make a real binary fail at a named point.
//
// A program parses its failpoints once, from the environment variable [Env], and
// hands the [Set] to whoever has points. A nil Set, which is what a program has
// outside of tests, costs one comparison per point.
//
//	FAULTLINE_FAILPOINTS="before-copy=crash@5 journal-written=error message-read=delay:20ms"
//
// An action is crash (the process kills itself with SIGKILL, as kill -9 would),
// error (the point returns an [Error]), or delay:DURATION. Behind an @ stands
// which hit of the point acts, counted from 1; without it each hit acts.
package failpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Env is the environment variable that holds the failpoints of a program.
const Env = "FAULTLINE_FAILPOINTS"

// Error is what a point with the action error returns.
type Error struct{ Point string }

// Error says which point it was.
func (e *Error) Error() string { return "failpoint " + e.Point }

// Set is the failpoints of a program. A nil Set has none.
type Set struct{ points map[string]*point }

type point struct {
	act  func() error
	at   int64 // the hit that acts; 0: each
	hits atomic.Int64
}

// Parse reads failpoints as they stand in Env. Names must be among known, so that
// a misspelt point is an error and not a test that tests nothing.
func Parse(text string, known ...string) (*Set, error) {
	var s *Set
	for _, word := range strings.Fields(text) {
		name, rest, _ := strings.Cut(word, "=")
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("failpoint %q: no such point; there are %s", name, strings.Join(known, ", "))
		}
		action, at, counted := strings.Cut(rest, "@")
		p := &point{}
		if counted {
			var err error
			if p.at, err = strconv.ParseInt(at, 10, 64); err != nil || p.at < 1 {
				return nil, fmt.Errorf("failpoint %q: %q is not the number of a hit", name, at)
			}
		}
		kind, argument, _ := strings.Cut(action, ":")
		switch kind {
		case "crash":
			p.act = crash
		case "error":
			p.act = func() error { return &Error{name} }
		case "delay":
			d, err := time.ParseDuration(argument)
			if err != nil {
				return nil, fmt.Errorf("failpoint %q: %w", name, err)
			}
			p.act = func() error { time.Sleep(d); return nil }
		default:
			return nil, fmt.Errorf("failpoint %q: action %q is none of crash, error, delay:DURATION", name, action)
		}
		if s == nil {
			s = &Set{points: make(map[string]*point)}
		}
		s.points[name] = p
	}
	return s, nil
}

// crash ends the process as kill -9 does, and does not return.
func crash() error {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}

// Hit acts if a failpoint of that name is set.
func (s *Set) Hit(name string) error {
	if s == nil {
		return nil
	}
	p := s.points[name]
	if p == nil {
		return nil
	}
	if hit := p.hits.Add(1); p.at != 0 && hit != p.at {
		return nil
	}
	return p.act()
}
