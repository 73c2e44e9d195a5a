package fleet

import (
	"context"
	"net/http"

	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// Drain lets the pager of a version take no new sessions and end after its last.
func Drain(ctx context.Context, dataDir, version string) (Pager, error) {
	c := client.New(pager.ControlSocket(dataDir, version))
	defer c.Close()
	h, err := c.Drain(ctx)
	if err != nil && NotRunning(err) {
		return Pager{}, problem.New(http.StatusNotFound, CodeNoPager, "faultline pager ls tells which versions run", "no pager %.80q runs on %s: %w", version, dataDir, err)
	}
	if err != nil {
		return Pager{}, err
	}
	current, err := Current(dataDir)
	return Pager{Version: h.Version, Current: h.Version == current, Status: Status(h.Status), PID: h.PID, Sessions: h.Sessions, UptimeMS: h.UptimeMS}, err
}

// Detached is a guest that needs no pager any more.
type Detached struct {
	// Session is the id of the session that it had.
	Session string `json:"session"`
	// Pager is the version that served it.
	Pager string `json:"pager"`
	// VMMPID is the process of its VMM, which runs on.
	VMMPID int `json:"vmm_pid"`
	// MemoryBytes is the size of its memory.
	MemoryBytes uint64 `json:"memory_bytes"`
}

// Detach gives the guest of a session all of its memory and ends the session, at
// whichever version that is; the guest runs on. Report, if not nil, is told from time
// to time how many bytes the guest has been given. The end of ctx calls it off.
func Detach(ctx context.Context, dataDir, id string, report func(given uint64)) (Detached, error) {
	for before := ""; ; {
		version, ok, err := Place(dataDir, id)
		if err != nil {
			return Detached{}, err
		}
		if !ok {
			return Detached{}, problem.New(http.StatusNotFound, CodeNoSession, "faultline pager sessions lists those that there are", "no pager on %s has a session %.80q", dataDir, id)
		}
		d, err := detachAt(ctx, dataDir, version, id, report)
		if err == nil || ctx.Err() != nil || version == before {
			return d, err
		}
		if now, there, placeErr := Place(dataDir, id); placeErr != nil || !there || now == version {
			return d, err
		}
		before = version // it was handed over meanwhile
	}
}

func detachAt(ctx context.Context, dataDir, version, id string, report func(given uint64)) (Detached, error) {
	c := client.New(pager.ControlSocket(dataDir, version))
	defer c.Close()
	stop := watch(func() {
		s, err := c.Session(ctx, id)
		if report != nil && err == nil {
			report(given(s))
		}
	})
	defer stop()
	s, err := c.Detach(ctx, id)
	if err != nil && NotRunning(err) {
		return Detached{}, problem.New(http.StatusConflict, CodeNoPager, "start it with faultline pager upgrade --to "+version, "the pager %s, which has session %s, does not run: %w", version, id, err)
	}
	return Detached{Session: id, Pager: version, VMMPID: s.VMMPID, MemoryBytes: s.Memory}, err
}

// given returns how many bytes a guest has got of its session.
func given(s control.Session) uint64 {
	return (s.Stats.CopiedPages + s.Stats.ZeroPages + s.Stats.RemovedPages + s.Stats.OverlayPages) * s.PageSize
}
