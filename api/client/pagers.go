package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// Pagers describes all versions of the pager that have been used with the daemon's
// data directory.
func (c *Client) Pagers(ctx context.Context) ([]fleet.Pager, error) {
	var list api.Pagers
	err := c.do(ctx, http.MethodGet, "/pagers", nil, &list)
	return list.Pagers, err
}

// UpgradePager makes a version of the pager the one that new sessions go to, and
// hands all others' sessions over to it, live.
func (c *Client) UpgradePager(ctx context.Context, version string) (u fleet.Upgraded, err error) {
	return u, c.do(ctx, http.MethodPost, "/pagers/upgrade", api.UpgradeRequest{Version: version}, &u)
}

// DrainPager lets the pager of a version take no new sessions, and end after its last.
func (c *Client) DrainPager(ctx context.Context, version string) (p fleet.Pager, err error) {
	return p, c.do(ctx, http.MethodPost, "/pagers/"+url.PathEscape(version)+"/drain", nil, &p)
}

// DetachSession gives a guest all of its memory and ends its session while it runs
// on. Ref is the id of the session, or names the instance. The end of ctx calls it off.
func (c *Client) DetachSession(ctx context.Context, ref string) (d fleet.Detached, err error) {
	return d, c.do(ctx, http.MethodPost, "/sessions/"+url.PathEscape(ref)+"/detach", nil, &d)
}
