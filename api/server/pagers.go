package server

import (
	"net/http"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/pager/fleet"
)

// pagerRoutes are about the processes that serve page faults.
func (s *Server) pagerRoutes() []Route {
	m := s.manager
	return []Route{
		handle("GET", "/pagers", http.StatusOK, func(r request, _ none) (api.Pagers, error) {
			list, err := m.Pagers(r.Context())
			return api.Pagers{Pagers: append([]fleet.Pager{}, list...)}, err
		}),
		handle("POST", "/pagers/upgrade", http.StatusOK, func(r request, body api.UpgradeRequest) (fleet.Upgraded, error) {
			return m.UpgradePager(r.Context(), body.Version, func(done, total int) {
				r.progress(api.Progress{Step: "hand sessions over", Done: int64(done), Total: int64(total)})
			})
		}).long(),
		handle("POST", "/pagers/{id}/drain", http.StatusAccepted, func(r request, _ none) (fleet.Pager, error) {
			return m.DrainPager(r.Context(), r.id())
		}),
		handle("POST", "/sessions/{id}/detach", http.StatusOK, func(r request, _ none) (fleet.Detached, error) {
			return m.DetachSession(r.Context(), r.id(), func(given uint64) {
				r.progress(api.Progress{Step: "detach: " + humanize.IBytes(given) + " are in the guest"})
			})
		}).long(),
	}
}
