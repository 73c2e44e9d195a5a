package cli

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// faultline runs one command and returns its exit code and output.
func faultline(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Main(args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

func TestVersion(t *testing.T) {
	if code, out, _ := faultline("version"); code != exitOK || out != "faultline dev\n" {
		t.Errorf("code %d, output %q", code, out)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"demo", "--help"}} {
		code, out, stderr := faultline(args...)
		if code != exitOK || !strings.Contains(out, "Usage: faultline") || stderr != "" {
			t.Errorf("%q: code %d, output %q, errors %q", args, code, out, stderr)
		}
	}
	_, out, _ := faultline("demo", "--help")
	for _, flag := range []string{"--forks", "--mem", "--working-set", "--hypervisor", "--backend", "--json"} {
		if !strings.Contains(out, flag) {
			t.Errorf("the help of demo lacks %s", flag)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	tests := map[string]struct {
		args []string
		says string
	}{
		"unknown command":    {[]string{"dance"}, "dance"},
		"unknown flag":       {[]string{"demo", "--spoons"}, "--spoons"},
		"unknown hypervisor": {[]string{"demo", "--hypervisor", "qemu"}, "--hypervisor"},
		"unknown group":      {[]string{"bench", "fualt"}, "fault"},
		"no group":           {[]string{"bench"}, "<group>"},
		"no size":            {[]string{"demo", "--mem", "much"}, "write it like 256MiB"},
		"a missing kernel":   {[]string{"demo", "--kernel", "no/such/file"}, "no/such/file"},
		"an argument":        {[]string{"version", "please"}, "please"},
	}
	for name, test := range tests {
		code, out, stderr := faultline(test.args...)
		if code != exitUsage || out != "" || !strings.Contains(stderr, test.says) || !strings.Contains(stderr, "--help") {
			t.Errorf("%s: code %d, output %q, errors %q", name, code, out, stderr)
		}
	}
}

func TestDemoRefusesBadValues(t *testing.T) {
	code, out, stderr := faultline("demo", "--forks", "0", "--mem", "1000000B", "--backend", "file", "--huge-pages")
	if code != exitFailed || out != "" {
		t.Errorf("code %d, output %q", code, out)
	}
	for _, want := range []string{"0 forks", "whole MiB", "backend uffd"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("errors %q lack %q", stderr, want)
		}
	}
}

func TestPagerThatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	for _, command := range []string{"sessions", "stats", "drain"} {
		code, out, stderr := faultline("pager", command, "--data-dir", dir)
		if code != exitFailed || out != "" || !strings.Contains(stderr, dir) {
			t.Errorf("%s: code %d, output %q, errors %q", command, code, out, stderr)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"256MiB": 256 << 20, "1 GiB": 1 << 30, "4096": 4096, "2MB": 2_000_000} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "many", "-1MiB", "99999999999999999999"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// Every command that tells something tells it as JSON, too.
func TestJSONEverywhere(t *testing.T) {
	parser, err := kong.New(&commands{}, kong.Vars{"bench_groups": "manager"}, kong.BindTo(t.Context(), (*context.Context)(nil)))
	if err != nil {
		t.Fatal(err)
	}
	// What these print is a file, nothing, or always JSON.
	others := []string{"config sample", "completion", "daemon", "complete", "pager stats"}
	for _, leaf := range parser.Model.Leaves(false) {
		has := slices.ContainsFunc(leaf.Flags, func(f *kong.Flag) bool { return f.Name == "json" })
		if name := leaf.Path(); !has && !slices.Contains(others, name) {
			t.Errorf("%s has no --json", name)
		}
	}
}

func TestJSONLines(t *testing.T) {
	var out strings.Builder
	lines := &jsonLines{s: streams{out: &out}}
	for _, part := range []string{"on", "e\r\ntwo\n\nthr", "ee"} {
		if _, err := lines.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	lines.end()
	if want := `{"line":"one"}` + "\n" + `{"line":"two"}` + "\n" + `{"line":""}` + "\n" + `{"line":"three"}` + "\n"; out.String() != want {
		t.Errorf("%s", out.String())
	}
}
