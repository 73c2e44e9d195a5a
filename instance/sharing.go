package instance

import (
	"fmt"
	"maps"
	"sync"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/memimage"
)

// Stats count what a Manager has done since it was opened.
type Stats struct {
	// Shared counts the sealed files that got a further owner, such as the layers of a
	// fork, by how: hard_link, reflink or sparse_copy. Only the first costs nothing.
	Shared map[memimage.Rung]uint64 `json:"shared"`
	// Copied counts the private copies of writable disks, by how: reflink or
	// sparse_copy.
	Copied map[memimage.Rung]uint64 `json:"copied"`
	// Unlinked says why a file was not hard-linked, the last time that one was not.
	Unlinked string      `json:"unlinked,omitempty"`
	Upkeep   UpkeepStats `json:"upkeep"`
}

// Stats returns the counts of now.
func (m *Manager) Stats() Stats {
	out := m.sharing.counted()
	out.Upkeep = m.upkeep.counted()
	return out
}

// sharingCounter counts how files came to their further owners.
type sharingCounter struct {
	mu    sync.Mutex
	stats Stats // protected by mu
}

func (c *sharingCounter) add(s capture.Sharing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := func(sum *map[memimage.Rung]uint64, more map[memimage.Rung]int) {
		for rung, n := range more {
			if *sum == nil {
				*sum = map[memimage.Rung]uint64{}
			}
			(*sum)[rung] += uint64(n)
		}
	}
	count(&c.stats.Shared, s.Rungs)
	count(&c.stats.Copied, s.Copies)
	if len(s.Reasons) > 0 {
		c.stats.Unlinked = s.Reasons[len(s.Reasons)-1].Error()
	}
}

func (c *sharingCounter) counted() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Shared: withoutNil(c.stats.Shared), Copied: withoutNil(c.stats.Copied), Unlinked: c.stats.Unlinked}
}

// withoutNil returns a copy that is an object in JSON, too, when it is empty.
func withoutNil(m map[memimage.Rung]uint64) map[memimage.Rung]uint64 {
	if m == nil {
		return map[memimage.Rung]uint64{}
	}
	return maps.Clone(m)
}

// noteSharing counts how files came to their further owners. What should have cost
// nothing and did cost is a warning, in the operation's result and in the log.
func (r *run) noteSharing(s capture.Sharing) {
	r.m.noteSharing(s, "operation", r.op, "instance", r.id, "name", r.name)
	if n := len(s.Reasons); n > 0 {
		r.warn("copied instead of linked: %s", summary(s.Reasons))
	}
	if s.Copies[memimage.SparseCopy] > 0 {
		r.warn("copied: %s", summary(s.CopyReasons))
	}
}

// noteSharing is the part of run.noteSharing that is about no operation.
func (m *Manager) noteSharing(s capture.Sharing, about ...any) {
	m.sharing.add(s)
	if n := len(s.Reasons); n > 0 {
		m.cfg.Logger.Warn("files were copied that should have been hard-linked", append(about,
			"files", n, "reflinks", s.Rungs[memimage.Reflink], "sparse_copies", s.Rungs[memimage.SparseCopy], "reason", s.Reasons[0])...)
	}
}

// summary is the first of several reasons, and how many follow.
func summary(reasons []error) string {
	text := reasons[0].Error()
	if more := len(reasons) - 1; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

func (r *run) noteShared(s memimage.Shared) {
	var one capture.Sharing
	one.AddFile(s)
	r.noteSharing(one)
}

func (r *run) noteCopied(s memimage.Shared) {
	var one capture.Sharing
	one.AddCopy(s)
	r.noteSharing(one)
}
