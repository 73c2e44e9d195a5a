package fcsim

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"

	"github.com/faultline-vm/faultline/guest"
)

// balloonConfig is the body of PUT and the answer of GET /balloon.
type balloonConfig struct {
	AmountMiB         uint32 `json:"amount_mib"`
	DeflateOnOOM      bool   `json:"deflate_on_oom"`
	StatsInterval     uint16 `json:"stats_polling_interval_s"` // seconds; 0: no statistics
	FreePageHinting   bool   `json:"free_page_hinting"`
	FreePageReporting bool   `json:"free_page_reporting"`
}

// balloonState is the balloon's part of the VM state.
type balloonState struct {
	Config balloonConfig `json:"config"`
	Actual uint64        `json:"actual"`
	Given  uint64        `json:"given"`
	Zeroed uint64        `json:"zeroed"`
}

// balloon is the device and its driver in the guest. The driver hands pages over
// from the top of RAM down, the workload's free ones first, and never one that
// the workload uses. Numbers of pages count from the top.
//
// The counters below are read by vCPUs at any time; all else is guarded by
// machine.mu.
type balloon struct {
	config balloonConfig
	// actual is how many pages are in the balloon now.
	actual uint64
	// given is how many were ever handed over, zeroed how many of these are
	// known to read as zeros: those that were dropped by this VMM, or whose zeros
	// are in the memory that it loaded.
	given, zeroed atomic.Uint64
	// base is what zeroed was when the memory image that a Diff builds upon was
	// written. Pages dropped later are holes in the Diff, and what they hold
	// after a restore comes from the layer below, as with Firecracker.
	base uint64
}

// batch is how many pages a driver hands over at once.
const batch = 256

const pagesPerMiB = 1 << 20 / pageSize

// inflate moves the balloon one batch towards its target and reports whether
// there is more to do. Machine.mu is held: the REMOVE event of a lazily loaded
// guest has to be read before the VMM does anything else.
func (b *balloon) inflate(mem *memory, w guest.Workload, log *slog.Logger) (more bool) {
	target := min(uint64(b.config.AmountMiB)*pagesPerMiB, (mem.size-w.End())/pageSize)
	if b.actual >= target {
		// Pages that leave the balloon are taken into use by faulting them in.
		b.actual = target
		return false
	}
	n := min(batch, target-b.actual)
	reached := b.actual + n
	b.given.Store(max(b.given.Load(), reached))
	err := mem.pieces(mem.size-reached*pageSize, n*pageSize, n*pageSize, func(_ uint64, part []byte) error {
		return mem.discard(part)
	})
	switch {
	case mem.page != pageSize && (err == nil || errors.Is(err, syscall.EINVAL)):
		// A balloon of 4 KiB pages reclaims nothing from larger ones.
	case err != nil:
		log.Error("Error removing memory range", "error", err)
	default:
		b.zeroed.Store(max(b.zeroed.Load(), reached))
	}
	b.actual = reached
	return b.actual < target
}

// state returns what a snapshot records. The zeros that it may promise depend on
// its memory file: a full one holds them all.
func (b *balloon) state(full bool) balloonState {
	s := balloonState{Config: b.config, Actual: b.actual, Given: b.given.Load(), Zeroed: b.base}
	if full {
		s.Zeroed = b.zeroed.Load()
	}
	return s
}

func (s *balloonState) validate(pages uint64) error {
	if s.Given > pages || s.Actual > s.Given || s.Zeroed > s.Given {
		return faultf("a balloon with %d, %d and %d of %d pages", s.Actual, s.Given, s.Zeroed, pages)
	}
	return nil
}

func (s *balloonState) restore() *balloon {
	b := &balloon{config: s.Config, actual: s.Actual, base: s.Zeroed}
	b.given.Store(s.Given)
	b.zeroed.Store(s.Zeroed)
	return b
}

// balloonStatistics is the answer of GET /balloon/statistics.
type balloonStatistics struct {
	TargetPages uint64 `json:"target_pages"`
	ActualPages uint64 `json:"actual_pages"`
	TargetMiB   uint64 `json:"target_mib"`
	ActualMiB   uint64 `json:"actual_mib"`
	FreeMemory  uint64 `json:"free_memory"`  // bytes
	TotalMemory uint64 `json:"total_memory"` // bytes
}

func (b *balloon) statistics(mem *memory, w guest.Workload) balloonStatistics {
	total := mem.size - b.actual*pageSize
	return balloonStatistics{
		TargetPages: uint64(b.config.AmountMiB) * pagesPerMiB,
		ActualPages: b.actual,
		TargetMiB:   uint64(b.config.AmountMiB),
		ActualMiB:   b.actual / pagesPerMiB,
		FreeMemory:  total - min(total, w.End()),
		TotalMemory: total,
	}
}

// kickBalloon tells the balloon's thread that there may be something to do. It
// never waits.
func (m *machine) kickBalloon() {
	select {
	case m.inflate <- struct{}{}:
	default:
	}
}

// inflateBalloon is the driver's and the device's work, one batch at a time, so
// that API requests come in between. A guest that is paused or still fills its
// memory does not drive a balloon; resuming and the end of the fill kick again.
func (m *machine) inflateBalloon() {
	m.kickBalloon()
	for range m.inflate {
		for m.inflateOnce() {
		}
	}
}

func (m *machine) inflateOnce() (more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != running || m.cpus.saved().Phase == filling {
		return false
	}
	return m.balloon.inflate(m.mem, m.cpus.w, m.log)
}
