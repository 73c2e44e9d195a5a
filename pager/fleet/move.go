package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// Codes of the problems of this package, beside those that a pager answers.
const (
	CodePagerDraining = "pager_draining"  // 409: the version that shall take sessions takes none
	CodeNoPager       = "pager_unknown"   // 404: no pager of this version
	CodeNoSession     = "session_unknown" // 404: no pager has it
)

// pollInterval is the time between two looks at a pager that is being waited for.
const pollInterval = 10 * time.Millisecond

// reportInterval is the time between two reports of progress.
const reportInterval = 200 * time.Millisecond

// endPatience bounds the wait for the end of a pager that has no session left. It
// needs milliseconds, or five seconds if a connection to it was never used.
const endPatience = 10 * time.Second

// Upgraded says what an upgrade has done.
type Upgraded struct {
	// Version is where all sessions were to go, and new ones go now.
	Version    string `json:"version"`
	HandedOver int    `json:"handed_over"`
	// Ended are the versions whose pager had no session left, and has ended.
	Ended []string `json:"ended,omitempty"`
	// Kept are the sessions that stay where they are. Their pagers take no new ones
	// and end after the last.
	Kept []Kept `json:"kept,omitempty"`
}

// Kept is a session, or all of a version, that was not handed over.
type Kept struct {
	Version string `json:"version"`
	// Session is empty where the pager could not be asked.
	Session string `json:"session,omitempty"`
	Reason  string `json:"reason"`
}

// Upgrade makes a version the one that new sessions go to, and hands all sessions of
// all other versions over to it, live. Each of these takes no new ones from then on
// and ends when it has none left. Nothing tells an upgrade from a downgrade.
//
// Start finds the pager of a version or starts it; it returns when that answers.
// Report, if not nil, is told how many sessions are done. An upgrade that ended
// early can be repeated: it goes on with what is left.
func Upgrade(ctx context.Context, dataDir, version string, start func(ctx context.Context, version string) error, report func(done, total int)) (Upgraded, error) {
	if !control.ValidID(version) {
		return Upgraded{}, problem.New(http.StatusBadRequest, "bad_request", "give a version such as "+pager.Version(), "pager version %.80q", version)
	}
	if err := startFresh(ctx, dataDir, version, start); err != nil {
		return Upgraded{}, err
	}
	if err := Choose(dataDir, version); err != nil {
		return Upgraded{}, err
	}
	list, err := List(ctx, dataDir)
	if err != nil {
		return Upgraded{}, err
	}
	total := 0
	for _, p := range list {
		if p.Version != version {
			total += p.Sessions
		}
	}
	result := Upgraded{Version: version}
	for _, p := range list {
		if p.Version == version || p.Status == Down && p.Sessions == 0 {
			continue
		}
		reason := ""
		switch p.Status {
		case Silent:
			reason = p.Reason
		case Down:
			// Its guests stand still, and only it can hand them over.
			if err := start(ctx, p.Version); err != nil {
				reason = err.Error()
			}
		}
		if reason != "" {
			result.Kept = append(result.Kept, Kept{Version: p.Version, Reason: reason})
			continue
		}
		before := result.HandedOver
		tell := func(left int) {
			if report != nil {
				report(before+max(0, p.Sessions-left), total)
			}
		}
		if err := result.empty(ctx, dataDir, p.Version, tell); err != nil {
			return result, err
		}
	}
	return result, nil
}

// startFresh starts the pager that is to take sessions. One that is draining and has
// none left is on its way out: it is waited for.
func startFresh(ctx context.Context, dataDir, version string, start func(ctx context.Context, version string) error) error {
	c := client.New(pager.ControlSocket(dataDir, version))
	defer c.Close()
	for {
		if h, err := c.Health(ctx); err == nil && h.Status == string(Draining) {
			if h.Sessions > 0 {
				return problem.New(http.StatusConflict, CodePagerDraining,
					fmt.Sprintf("detach its sessions, or hand them over with faultline pager upgrade to a third version; the pager %s can be started again when it has ended", version),
					"the pager %s is draining and still has %d sessions: it takes no others", version, h.Sessions)
			}
			c.Close()
			if !ended(ctx, c) {
				return fmt.Errorf("the pager %s is drained and does not end: %w", version, context.Cause(ctx))
			}
			continue
		}
		err := start(ctx, version)
		if err != nil {
			return problem.New(http.StatusConflict, CodeNoPager, "", "the pager %s cannot be started: %w", version, err)
		}
		// It could have been found while it was ending.
		h, err := c.Health(ctx)
		if err == nil && h.Status == string(OK) {
			return nil
		}
		if err != nil && !NotRunning(err) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// empty hands over what one version has. Tell is told how many sessions are left.
func (u *Upgraded) empty(ctx context.Context, dataDir, version string, tell func(left int)) error {
	c := client.New(pager.ControlSocket(dataDir, version))
	defer c.Close()
	stop := watch(func() {
		if h, err := c.Health(ctx); err == nil {
			tell(h.Sessions)
		}
	})
	h, err := c.Handover(ctx, control.HandoverRequest{To: pager.Dir(dataDir, u.Version)})
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("handing the sessions of the pager %s over: %w", version, context.Cause(ctx))
	}
	if err != nil && !NotRunning(err) {
		u.Kept = append(u.Kept, Kept{Version: version, Reason: err.Error()})
		return nil
	}
	u.HandedOver += h.HandedOver
	for _, k := range h.Kept {
		u.Kept = append(u.Kept, Kept{Version: version, Session: k.ID, Reason: k.Reason})
	}
	if len(h.Kept) > 0 {
		return nil
	}
	c.Close()
	if ended(ctx, c) {
		u.Ended = append(u.Ended, version)
	}
	return nil
}

// ended waits until a drained pager has ended, for as long as that makes sense. What
// it has handed over it counts for a moment longer.
func ended(ctx context.Context, c *client.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if _, err := c.Health(ctx); err != nil && NotRunning(err) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// watch calls look again and again until the function that it returns is called.
func watch(look func()) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(reportInterval)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				look()
			}
		}
	}()
	return func() {
		close(end)
		<-done
	}
}
