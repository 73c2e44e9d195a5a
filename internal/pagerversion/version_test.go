package main

import (
	"strings"
	"testing"
)

// ordered is semver.org's example of item 11, with more around it.
var ordered = []string{
	"0.0.0-0", "0.0.9", "0.1.0", "0.9.0", "0.10.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
	"1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "2.0.0", "10.0.0",
}

func TestCompare(t *testing.T) {
	for i, a := range ordered {
		for j, b := range ordered {
			v, err := parseVersion(a + "\n")
			if err != nil {
				t.Fatal(err)
			}
			w, err := parseVersion(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := v.compare(w); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("comparing %s with %s gave %d", a, b, got)
			}
		}
	}
}

func TestBadVersions(t *testing.T) {
	for _, text := range []string{
		"", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+build", "1.2.3-a_b",
		"../../etc", "1.2.3 4", strings.Repeat("9", 30) + ".0.0",
	} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("%q was taken for version %v", text, v)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, text := range ordered {
		f.Add(text)
	}
	f.Add("1.2.3-")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVersion(text)
		if err != nil {
			return
		}
		if v.String() != strings.TrimSpace(text) {
			t.Fatalf("%q became %q", text, v)
		}
		if v.compare(v) != 0 || strings.ContainsAny(v.String(), "/+ \n") {
			t.Fatalf("%q", v)
		}
	})
}
