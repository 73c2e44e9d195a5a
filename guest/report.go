package guest

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind says what a report answers.
type Kind string

// The kinds of reports, each with the command that it answers.
const (
	Ready Kind = "ready" // after the first fill
	Pong  Kind = "pong"  // p
	Check Kind = "check" // c, and after each write of auto mode
	Write Kind = "write" // w, and in auto mode
	Stop  Kind = "stop"  // s
)

// Commands a guest obeys, one byte each on its serial port.
const (
	CommandPing  = 'p'
	CommandCheck = 'c'
	CommandWrite = 'w'
	CommandAuto  = 'a'
	CommandStop  = 's'
)

// NoPage is Report.First when no page was wrong.
const NoPage = ^uint64(0)

// Report is one line of a guest. On the console it is
//
//	faultline check pass=… pages=… bad=… first=… seed=… id=…
//
// with single spaces and sixteen lower-case hexadecimal digits per value.
type Report struct {
	Kind  Kind
	Pass  uint64 // write passes done since boot
	Pages uint64 // pages that this command visited
	Bad   uint64 // of these, pages that were wrong
	First uint64 // lowest number of a wrong page, or NoPage
	Seed  uint64 // seed of the last write
	ID    uint64 // first word of the identity page
}

const linePrefix = "faultline "

// String returns the report as its console line, without the line feed.
func (r Report) String() string {
	return fmt.Sprintf("%s%s pass=%016x pages=%016x bad=%016x first=%016x seed=%016x id=%016x",
		linePrefix, r.Kind, r.Pass, r.Pages, r.Bad, r.First, r.Seed, r.ID)
}

// ParseReport reads one console line. It returns false for lines that are not a
// report, and an error for one that begins like a report and is not: a console
// that lost bytes must not look like silence.
func ParseReport(line string) (Report, bool, error) {
	rest, ours := strings.CutPrefix(strings.TrimRight(line, "\r\n"), linePrefix)
	if !ours {
		return Report{}, false, nil
	}
	words := strings.Split(rest, " ")
	r := Report{Kind: Kind(words[0])}
	switch r.Kind {
	case Ready, Pong, Check, Write, Stop:
	default:
		if strings.Contains(rest, "pass=") {
			return Report{}, false, fmt.Errorf("guest report %q: no report is of kind %q", line, words[0])
		}
		return Report{}, false, nil
	}
	fields := []field{{"pass", &r.Pass}, {"pages", &r.Pages}, {"bad", &r.Bad}, {"first", &r.First}, {"seed", &r.Seed}, {"id", &r.ID}}
	if len(words) != 1+len(fields) {
		return Report{}, false, fmt.Errorf("guest report %q: %d fields instead of %d", line, len(words)-1, len(fields))
	}
	for i, f := range fields {
		text, named := strings.CutPrefix(words[1+i], f.name+"=")
		value, err := strconv.ParseUint(text, 16, 64)
		if !named || err != nil || len(text) != 16 || strings.ToLower(text) != text {
			return Report{}, false, fmt.Errorf("guest report %q: field %q is not %s=<16 lower-case hexadecimal digits>", line, words[1+i], f.name)
		}
		*f.value = value
	}
	return r, true, nil
}
