package instance

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/idlethread"
	"github.com/faultline-vm/faultline/memimage"
)

// Upkeep says what a Manager does about memory images in the background. The zero
// value does nothing.
type Upkeep struct {
	// Flatten says which images have their layers merged into one.
	Flatten memimage.FlattenPolicy
	// Checksums gives new layers their checksums, which [memimage.Verify] compares.
	Checksums bool
}

// UpkeepStats count what was done in the background since the Manager was opened.
type UpkeepStats struct {
	// Flattened counts merged stacks, Superseded the images that a merged layer has
	// come into, and Checksummed the layers that got checksums.
	Flattened   uint64 `json:"flattened"`
	Superseded  uint64 `json:"superseded"`
	Checksummed uint64 `json:"checksummed"`
	// Failed counts attempts that failed, and LastError says how the last one did.
	Failed    uint64 `json:"failed"`
	LastError string `json:"last_error,omitempty"`
}

// Times of the upkeep: between two looks at all images if nothing happens, and
// before a stack is tried again that could not be kept up, twice as long each time.
const (
	upkeepInterval = time.Minute
	longestRetry   = time.Hour
)

// upkeepDraft is the name of the directory in which the upkeep works. Like that of
// everything unpublished it is removed by the next start.
const upkeepDraft = draftMark + "upkeep"

// upkeep keeps memory images in order: newest captures of instances, and snapshots.
// One goroutine does it, on a thread that makes way for everybody, and stands still
// while a guest waits for its capture.
//
// What is made is made in a directory that nobody owns, from names of its own for
// what it reads, and no gate is held meanwhile:
//
//	(nothing) ──share or flatten──▶ draft ──checksums──▶ draft ──to each owner──▶ (nothing)
//
// The last step takes the gate of one owner after the other alone, behind everybody
// who waits for it, and for a moment: names of what is in the draft, memory.json,
// removal of the names before. Owners are all who have the stack, also those who have
// put more layers on it meanwhile: what was shared stays shared, and a stack becomes
// shorter however often its instance is captured. Nobody who has an image open
// notices. A crash leaves the draft, or names that the next start prunes.
type upkeep struct {
	cfg Upkeep
	log *slog.Logger
	// dir is where the draft is made, on the filesystem of the images.
	dir string
	// list returns all images.
	list func() []keptImage
	// shared is told how owners came to what is in the draft.
	shared func(capture.Sharing)
	pauses pauses
	wake   chan struct{}

	// mu guards stats. It is a leaf.
	mu    sync.Mutex
	stats UpkeepStats

	// What follows belongs to the goroutine.
	// settled are the images that nothing has to be done about, by settledKey.
	settled map[string]bool
	// failed are stacks that could not be kept up.
	failed map[string]retry
}

// keptImage is a memory image that a Manager keeps.
type keptImage struct {
	manifest string
	gate     *gate
	// still tells whether it is its owner's and may be changed now; gate is held alone.
	still func() bool
}

// retry says when to try again.
type retry struct {
	at   time.Time
	wait time.Duration
}

func newUpkeep(cfg Upkeep, log *slog.Logger, dir string, list func() []keptImage, shared func(capture.Sharing)) *upkeep {
	return &upkeep{
		cfg: cfg, log: log, dir: dir, list: list, shared: shared,
		wake: make(chan struct{}, 1), failed: map[string]retry{},
	}
}

// nudge tells that images may have come.
func (u *upkeep) nudge() {
	select {
	case u.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// run keeps images in order until ctx ends. The goroutine is used up by it.
func (u *upkeep) run(ctx context.Context) {
	if u.cfg == (Upkeep{}) {
		return
	}
	if err := idlethread.Enter(); err != nil {
		u.log.Warn("upkeep of memory images competes with guests", "error", err)
	}
	tick := time.NewTicker(upkeepInterval)
	defer tick.Stop()
	for {
		for u.pass(ctx) {
		}
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
		case <-tick.C:
		}
	}
}

// pass does what there is to do, and reports whether anything has changed.
func (u *upkeep) pass(ctx context.Context) (busy bool) {
	for _, c := range u.chores() {
		owners, err := u.do(ctx, c)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			u.fail(c, err)
		case owners == 0 && c.stands():
			// Its owner cannot be settled.
			u.later(c)
		default:
			busy = true
			delete(u.failed, c.stack.Stack())
		}
	}
	return busy
}

// later puts a chore off, and returns for how long.
func (u *upkeep) later(c chore) time.Duration {
	stack := c.stack.Stack()
	wait := max(upkeepInterval, min(2*u.failed[stack].wait, longestRetry))
	u.failed[stack] = retry{at: time.Now().Add(wait), wait: wait}
	return wait
}

// fail notes that a chore could not be done.
func (u *upkeep) fail(c chore, err error) {
	wait := u.later(c)
	u.count(func(s *UpkeepStats) { s.Failed, s.LastError = s.Failed+1, err.Error() })
	u.log.Warn("a memory image is left as it is", "image", filepath.Dir(c.image.manifest), "again_in", wait, "error", err)
}

func (u *upkeep) count(change func(s *UpkeepStats)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.stats)
}

func (u *upkeep) counted() UpkeepStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stats
}
