package fcsim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// logTarget is where log lines go and which of them: standard output, which is
// also the guest's console, until log_path names a file. One write per line, so
// that lines of log and guest do not tear each other.
type logTarget struct {
	mu        sync.Mutex
	out       io.Writer
	level     slog.Level
	showLevel bool
}

// logConfig is the body of PUT /logger; nil members change nothing.
type logConfig struct {
	path      *string
	level     *string
	showLevel *bool
}

// configure opens the file before it changes anything.
func (t *logTarget) configure(c logConfig) error {
	var out io.Writer
	if c.path != nil {
		file, err := os.OpenFile(*c.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return faultf("Failed to open target file: %w", osFault(err))
		}
		out = file
	}
	level, err := parseLevel(c.level)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if out != nil {
		t.out = out
	}
	if c.level != nil {
		t.level = level
	}
	if c.showLevel != nil {
		t.showLevel = *c.showLevel
	}
	return nil
}

const levelOff = slog.LevelError + 4

// parseLevel knows the names of Firecracker's levels in any case; nil is Info.
func parseLevel(name *string) (slog.Level, error) {
	if name == nil {
		return slog.LevelInfo, nil
	}
	switch strings.ToLower(*name) {
	case "off":
		return levelOff, nil
	case "error":
		return slog.LevelError, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "info":
		return slog.LevelInfo, nil
	case "debug", "trace":
		return slog.LevelDebug, nil
	}
	return 0, faultf("Failed to parse string to level filter: %s", *name)
}

// logHandler writes records in the layout of Firecracker's log:
//
//	2026-08-23T10:11:12.123456789 [id:thread] message key=value
type logHandler struct {
	target *logTarget
	id     string
	attrs  []slog.Attr
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	h.target.mu.Lock()
	defer h.target.mu.Unlock()
	return level >= h.target.level
}

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s [%s:fcsim", r.Time.Format("2006-01-02T15:04:05.000000000"), h.id)
	h.target.mu.Lock()
	defer h.target.mu.Unlock()
	if h.target.showLevel {
		fmt.Fprintf(&b, ":%s", r.Level)
	}
	b.WriteString("] " + r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	_, err := io.WriteString(h.target.out, b.String())
	return err
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{target: h.target, id: h.id, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup ignores the name: Firecracker's layout has no groups.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

// since is the time a request took, in microseconds, as Firecracker counts it.
func since(start time.Time) uint64 { return uint64(time.Since(start).Microseconds()) }
