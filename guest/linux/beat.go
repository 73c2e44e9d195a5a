package linux

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Beat is one line that the guest's program prints about once a second, after it
// has compared all of its memory and, if it has a disk, a block of it.
type Beat struct {
	Number    uint64        // counts from 1 since boot
	Uptime    time.Duration // of the guest's monotonic clock
	Real      time.Duration // of the guest's wall clock, since 1970
	BadWords  uint64        // 64-bit words of its memory that were wrong
	CheckTime time.Duration // how long comparing them took
	Disk      *Disk         // nil without a disk
}

// Disk is what a beat says about the guest's first disk.
type Disk struct {
	Mark  string // the first 8 bytes of block 0, unprintable ones as dots; "" if it cannot be read
	Right bool   // a block that it wrote, flushed and read back was right
}

// Right reports whether all that the beat checked was right.
func (b Beat) Right() bool { return b.BadWords == 0 && (b.Disk == nil || b.Disk.Right) }

const (
	beatPrefix  = "beat "
	readyPrefix = "READY "
)

// Ready reports whether a console line says that the guest begins to beat.
func Ready(line string) bool { return strings.HasPrefix(line, readyPrefix) }

var (
	memoryLine = regexp.MustCompile(`^beat (\d+) up=(\d+) real=(\d+) mem=(ok|BAD:\d+) (\d+)ms( .*)?$`)
	diskLine   = regexp.MustCompile(`^ blk0=-?\d+:([ -~]{8}|) wr=-?\d+/-?\d+/-?\d+ (blkok|BLKBAD)$`)
)

// ParseBeat reads one console line. It returns false for other lines, and an
// error for one that begins like a beat and is not.
func ParseBeat(line string) (Beat, bool, error) {
	line = strings.TrimRight(line, "\r\n")
	if !strings.HasPrefix(line, beatPrefix) {
		return Beat{}, false, nil
	}
	fail := func(what string) (Beat, bool, error) {
		return Beat{}, false, fmt.Errorf("linux guest said %q: %s", line, what)
	}
	m := memoryLine.FindStringSubmatch(line)
	if m == nil {
		return fail("not a whole beat")
	}
	bad := "0"
	if m[4] != "ok" {
		bad = strings.TrimPrefix(m[4], "BAD:")
	}
	var b Beat
	for _, f := range []struct {
		text  string
		limit uint64
		set   func(uint64)
	}{
		{m[1], math.MaxUint64, func(v uint64) { b.Number = v }},
		{m[2], maxMilliseconds, func(v uint64) { b.Uptime = time.Duration(v) * time.Millisecond }},
		{m[3], maxMilliseconds, func(v uint64) { b.Real = time.Duration(v) * time.Millisecond }},
		{bad, math.MaxUint64, func(v uint64) { b.BadWords = v }},
		{m[5], maxMilliseconds, func(v uint64) { b.CheckTime = time.Duration(v) * time.Millisecond }},
	} {
		v, err := strconv.ParseUint(f.text, 10, 64)
		if err != nil || v > f.limit {
			return fail(f.text + " is too large")
		}
		f.set(v)
	}
	if m[4] != "ok" && b.BadWords == 0 {
		return fail("bad memory without a bad word")
	}
	if m[6] != "" {
		d := diskLine.FindStringSubmatch(m[6])
		if d == nil {
			return fail("not a whole report of the disk")
		}
		b.Disk = &Disk{Mark: d[1], Right: d[2] == "blkok"}
	}
	return b, true, nil
}

const maxMilliseconds = uint64(math.MaxInt64 / time.Millisecond)
