package linux

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseBeat(t *testing.T) {
	base := Beat{Number: 3, Uptime: 1234 * time.Millisecond, Real: 1700000000123 * time.Millisecond, CheckTime: 7 * time.Millisecond}
	with := func(change func(b *Beat)) Beat { b := base; change(&b); return b }
	for line, want := range map[string]Beat{
		"beat 3 up=1234 real=1700000000123 mem=ok 7ms":                                         base,
		"beat 3 up=1234 real=1700000000123 mem=ok 7ms\r\n":                                     base,
		"beat 3 up=1234 real=1700000000123 mem=BAD:12 7ms":                                     with(func(b *Beat) { b.BadWords = 12 }),
		"beat 3 up=1234 real=1700000000123 mem=ok 7ms blk0=4096:fork 7 . wr=4096/0/4096 blkok": with(func(b *Beat) { b.Disk = &Disk{"fork 7 .", true} }),
		"beat 3 up=1234 real=1700000000123 mem=ok 7ms blk0=-5: wr=-5/-5/-5 BLKBAD":             with(func(b *Beat) { b.Disk = &Disk{"", false} }),
	} {
		got, ok, err := ParseBeat(line)
		if diff := cmp.Diff(want, got); !ok || err != nil || diff != "" {
			t.Errorf("%q: %v %v %s", line, ok, err, diff)
		}
	}
}

func TestBeatRight(t *testing.T) {
	for _, c := range []struct {
		beat Beat
		want bool
	}{
		{Beat{}, true}, {Beat{BadWords: 1}, false}, {Beat{Disk: &Disk{Right: true}}, true},
		{Beat{Disk: &Disk{}}, false}, {Beat{BadWords: 1, Disk: &Disk{Right: true}}, false},
	} {
		if got := c.beat.Right(); got != c.want {
			t.Errorf("%+v: %v", c.beat, got)
		}
	}
}

func TestParseBeatPassesOverOtherLines(t *testing.T) {
	for _, line := range []string{"", "READY mem=8MiB at uptime ms 900", "[    1.2] beat 3", "beating", "beats 1"} {
		if b, ok, err := ParseBeat(line); ok || err != nil {
			t.Errorf("%q: %v %v %v", line, b, ok, err)
		}
	}
}

func TestParseBeatRefusesDamagedLines(t *testing.T) {
	whole := "beat 3 up=1234 real=17 mem=ok 7ms blk0=4096:abcdefgh wr=4096/0/4096 blkok"
	lines := []string{
		"beat ", "beat 1", "beat -1 up=1 real=1 mem=ok 1ms", "beat 1 up=1 real=1 mem=BAD:0 1ms", "beat 1 up=1 real=1 mem=BAD: 1ms",
		"beat 99999999999999999999 up=1 real=1 mem=ok 1ms", "beat 1 up=9999999999999999 real=1 mem=ok 1ms", whole + " ",
	}
	for end := len("beat "); end < len(whole); end++ {
		if whole[:end] != "beat 3 up=1234 real=17 mem=ok 7ms" { // that is a whole one without a disk
			lines = append(lines, whole[:end])
		}
	}
	for _, line := range lines {
		if b, ok, err := ParseBeat(line); ok || err == nil || !strings.Contains(err.Error(), "linux guest said") {
			t.Errorf("%q: %v %v %v", line, b, ok, err)
		}
	}
}

func TestReady(t *testing.T) {
	if !Ready("READY mem=8MiB at uptime ms 15211\r") || Ready("init: started") || Ready("not READY ") {
		t.Error("READY is not recognised")
	}
}

func FuzzParseBeat(f *testing.F) {
	f.Add("beat 3 up=1234 real=1700000000123 mem=ok 7ms blk0=4096:........ wr=4096/0/4096 blkok")
	f.Add("beat 1 up=1 real=2 mem=BAD:18446744073709551615 3ms")
	f.Add("beat 1 up=1 real=2 mem=ok 3ms blk0=-5: wr=-5/0/0 BLKBAD\r\n")
	f.Fuzz(func(t *testing.T, line string) {
		b, ok, err := ParseBeat(line)
		if !ok {
			if b != (Beat{}) {
				t.Errorf("%q: %v without ok", line, b)
			}
			return
		}
		if err != nil || b.Uptime < 0 || b.Real < 0 || b.CheckTime < 0 || b.Disk != nil && len(b.Disk.Mark) > 8 {
			t.Errorf("%q: %+v %v", line, b, err)
		}
		memory := "ok"
		if b.BadWords > 0 {
			memory = fmt.Sprintf("BAD:%d", b.BadWords)
		}
		again := fmt.Sprintf("beat %d up=%d real=%d mem=%s %dms", b.Number, b.Uptime.Milliseconds(), b.Real.Milliseconds(), memory, b.CheckTime.Milliseconds())
		if b.Disk != nil {
			again += fmt.Sprintf(" blk0=0:%s wr=0/0/0 %s", b.Disk.Mark, map[bool]string{true: "blkok", false: "BLKBAD"}[b.Disk.Right])
		}
		if got, ok, err := ParseBeat(again); !ok || err != nil || !cmp.Equal(b, got) {
			t.Errorf("%q: %+v became %+v (%v)", line, b, got, err)
		}
	})
}
