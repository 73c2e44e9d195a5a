package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCaseJSON(t *testing.T) {
	tests := map[string]struct {
		c    Case
		want string
	}{
		"within":   {limited("a", "ratio", 1.10).measured(1.10, "%d rounds", 3), `{"name":"a","value":1.1,"unit":"ratio","limit":1.1,"holds":true,"detail":"3 rounds"}`},
		"beyond":   {limited("a", "ratio", 1.10).measured(1.101, ""), `{"name":"a","value":1.101,"unit":"ratio","limit":1.1,"holds":false,"detail":""}`},
		"zero":     {limited("a", "n", 0).measured(0, ""), `{"name":"a","value":0,"unit":"n","limit":0,"holds":true,"detail":""}`},
		"no limit": {unlimited("a", "µs").measured(7, ""), `{"name":"a","value":7,"unit":"µs","limit":null,"detail":""}`},
		"skipped":  {limited("a", "n", 4).skip(errors.New("no compiler")), `{"name":"a","unit":"n","limit":4,"detail":"","skipped":"no compiler"}`},
	}
	for name, test := range tests {
		got, err := json.Marshal(test.c)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestReportJSON(t *testing.T) {
	text, err := json.Marshal(Report{Environment: environment("v1"), Cases: []Case{}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Environment map[string]any `json:"environment"`
		Cases       []any          `json:"cases"`
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"faultline", "go", "arch", "kernel", "cpus", "memory_bytes"} {
		if v := got.Environment[name]; v == nil || v == "" || v == 0.0 {
			t.Errorf("environment has %s %v", name, v)
		}
	}
	if got.Cases == nil {
		t.Error("no cases are null instead of an empty list")
	}
}

func TestWriteTable(t *testing.T) {
	report := Report{Cases: []Case{
		limited("good", "MiB", 64).measured(18.25, "seen often"),
		limited("bad", "ratio", 1.1).measured(2, ""),
		unlimited("told", "µs").measured(3, ""),
		limited("missing", "n", 0).skip(errors.New("no compiler")),
	}}
	var out bytes.Buffer
	if err := report.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if words := strings.Fields(line); len(words) == 5 && !strings.HasSuffix(words[0], ":") {
			rows[words[0]] = strings.Join(words[1:], " ")
		}
	}
	want := map[string]string{
		"CASE": "VALUE UNIT LIMIT HOLDS", "good": "18.25 MiB 64 yes", "bad": "2 ratio 1.1 NO",
		"told": "3 µs - -", "missing": "- n 0 skipped",
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"good: seen often", "missing: not measured: no compiler"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the table does not say %q", text)
		}
	}
}

func TestField(t *testing.T) {
	text := "MemTotal:       24684096 kB\nmodel name\t: A: B\n"
	if got := kibibytes(field(text, "MemTotal")); got != 24684096<<10 {
		t.Errorf("MemTotal is %d", got)
	}
	if got := field(text, "model name"); got != "A: B" {
		t.Errorf("the model is %q", got)
	}
	for _, text := range []string{"", "12", "x kB", "-1 kB"} {
		if got := kibibytes(text); got != 0 {
			t.Errorf("%q is %d bytes", text, got)
		}
	}
}
