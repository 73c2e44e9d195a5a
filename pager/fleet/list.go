package fleet

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/faultline-vm/faultline/pager/supervisor"
)

// Status is what a version of the pager does.
type Status string

// The statuses.
const (
	OK       Status = "ok"       // it takes sessions
	Draining Status = "draining" // it serves those it has, takes none, and ends after the last
	Silent   Status = "silent"   // something listens and does not answer
	Down     Status = "down"     // nothing listens; guests of its sessions stand still
)

// Pager describes the pager of one version.
type Pager struct {
	Version string `json:"version"`
	// Current tells that new sessions go there.
	Current bool   `json:"current"`
	Status  Status `json:"status"`
	// Reason says what is wrong, if anything is.
	Reason string `json:"reason,omitempty"`
	// PID is its process, 0 where it does not answer.
	PID int `json:"pid,omitempty"`
	// Sessions counts the active ones; of a pager that does not answer, those that
	// wait for it.
	Sessions int   `json:"sessions"`
	UptimeMS int64 `json:"uptime_ms,omitempty"`
}

// List describes all versions that have been used with a data directory, by name,
// and the current one.
func List(ctx context.Context, dataDir string) ([]Pager, error) {
	found, err := supervisor.Versions(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	current, err := Current(dataDir)
	if err != nil {
		return nil, err
	}
	places, err := Places(dataDir)
	if err != nil {
		return nil, err
	}
	waiting := make(map[string]int)
	for _, version := range places {
		waiting[version]++
	}
	list := make([]Pager, 0, len(found))
	for _, v := range found {
		p := Pager{Version: v.Version, Current: v.Version == current}
		switch {
		case v.Err == nil:
			p.Status, p.PID, p.Sessions, p.UptimeMS = Status(v.Health.Status), v.Health.PID, v.Health.Sessions, v.Health.UptimeMS
		case NotRunning(v.Err):
			if p.Status, p.Sessions = Down, waiting[v.Version]; p.Sessions > 0 {
				p.Reason = "guests stand still until it runs"
			}
		default:
			p.Status, p.Reason, p.Sessions = Silent, v.Err.Error(), waiting[v.Version]
		}
		list = append(list, p)
	}
	return list, nil
}

// NotRunning reports whether a pager could not be asked because no process listens
// on its socket, or because that one went away meanwhile.
func NotRunning(err error) bool {
	for _, gone := range []error{fs.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}
