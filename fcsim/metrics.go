package fcsim

import (
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// metrics are the durations of the newest requests in microseconds, under the
// names of Firecracker's metrics; other metrics do not exist here.
type metrics struct {
	fullCreate, diffCreate, loadSnapshot, pauseVM, resumeVM atomic.Uint64

	mu   sync.Mutex
	file *os.File // nil until configured
}

func (m *metrics) configure(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		return faultf("Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.")
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return faultf("Metrics error: Cannot initialize the metrics system due to bad user input: Failed to open target file: %w", osFault(err))
	}
	m.file = file
	return nil
}

// flush appends one line of JSON; without a file there is nothing to do.
func (m *metrics) flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return nil
	}
	line, err := json.Marshal(map[string]any{
		"utc_timestamp_ms": time.Now().UnixMilli(),
		"latencies_us": map[string]uint64{
			"full_create_snapshot": m.fullCreate.Load(),
			"diff_create_snapshot": m.diffCreate.Load(),
			"load_snapshot":        m.loadSnapshot.Load(),
			"pause_vm":             m.pauseVM.Load(),
			"resume_vm":            m.resumeVM.Load(),
		},
	})
	if err == nil {
		_, err = m.file.Write(append(line, '\n'))
	}
	if err != nil {
		return faultf("Internal VMM error: Metrics: %w", osFault(err))
	}
	return nil
}
