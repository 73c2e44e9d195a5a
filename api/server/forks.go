package server

import (
	"github.com/faultline-vm/faultline/api"
	"github.com/faultline-vm/faultline/instance"
)

// forksOf counts the forks of a request that have come to an end. An event does not
// tell whose fork it is: while others fork too, the count is ahead, but never above
// the total.
func forksOf(r instance.ForkRequest) func(instance.Event) (api.Progress, bool) {
	total := max(r.Count, len(r.Names), 1)
	done := 0
	return func(e instance.Event) (api.Progress, bool) {
		if e.Kind != instance.EventDone || e.Operation != instance.OpFork {
			return api.Progress{}, false
		}
		done = min(done+1, total)
		return api.Progress{Step: "fork", Done: int64(done), Total: int64(total)}, true
	}
}
