package guest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestReportLine(t *testing.T) {
	r := Report{Kind: Check, Pass: 1, Pages: 0x200, Bad: 3, First: NoPage, Seed: 0xabc, ID: 6}
	const want = "faultline check pass=0000000000000001 pages=0000000000000200 bad=0000000000000003 first=ffffffffffffffff seed=0000000000000abc id=0000000000000006"
	if got := r.String(); got != want {
		t.Errorf("%s", got)
	}
	for _, end := range []string{"", "\n", "\r\n"} {
		if got, ok, err := ParseReport(want + end); err != nil || !ok || got != r {
			t.Errorf("%q: %v %v %v", end, got, ok, err)
		}
	}
}

func TestReportRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64()
		r := Report{
			Kind: rapid.SampledFrom([]Kind{Ready, Pong, Check, Write, Stop}).Draw(t, "kind"),
			Pass: n.Draw(t, "pass"), Pages: n.Draw(t, "pages"), Bad: n.Draw(t, "bad"),
			First: n.Draw(t, "first"), Seed: n.Draw(t, "seed"), ID: n.Draw(t, "id"),
		}
		got, ok, err := ParseReport(r.String())
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestOtherLinesAreNotReports(t *testing.T) {
	for _, line := range []string{"", "\n", "[    0.000000] Linux", "faultline", "faultline ", "faultline boot", "Faultline check", " faultline check"} {
		if r, ok, err := ParseReport(line); ok || err != nil {
			t.Errorf("%q: %v %v %v", line, r, ok, err)
		}
	}
}

func TestDamagedReportsAreErrors(t *testing.T) {
	whole := Report{Kind: Write, First: NoPage, Seed: 0xabcdef}.String()
	// A console that loses bytes can lose any.
	for at := len("faultline "); at < len(whole); at++ {
		line := whole[:at] + whole[at+1:]
		if r, ok, err := ParseReport(line); ok || err == nil || !strings.Contains(err.Error(), "guest report") {
			t.Errorf("%q: %v %v %v", line, r, ok, err)
		}
	}
	for _, line := range []string{"faultline check", whole + " ", whole + " x=1", strings.Replace(whole, "abcdef", "ABCDEF", 1), strings.Replace(whole, "pass", "past", 1)} {
		if r, ok, err := ParseReport(line); ok || err == nil {
			t.Errorf("%q: %v %v", line, r, ok)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add(Report{Kind: Ready, Pages: 12, First: NoPage, Seed: 1}.String())
	f.Add("faultline check pass=0 pages=")
	f.Add("faultline stop a b c d e f")
	f.Add("boot")
	f.Fuzz(func(t *testing.T, line string) {
		r, ok, err := ParseReport(line)
		if ok && err != nil {
			t.Errorf("%q: both a report and an error: %v", line, err)
		}
		if ok && r.String() != strings.TrimRight(line, "\r\n") {
			t.Errorf("%q became %q", line, r.String())
		}
	})
}
