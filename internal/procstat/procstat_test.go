package procstat

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

const rest = " S 1 2 3 4 5 6 700 8 90 10 11 12 13 14 15 16 17 18 777 20 21"

func TestParse(t *testing.T) {
	// The name of a program may hold anything.
	for _, name := range []string{"sh", "a b", ") R 1 2", "((", ""} {
		got, err := parse("42 (" + name + ")" + rest)
		if want := (Stat{MinorFaults: 700, MajorFaults: 90, StartTime: 777}); err != nil || got != want {
			t.Errorf("program %q: %+v, error %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "42", "42 (sh) S 1 2", "42 (sh" + rest, strings.Replace("42 (sh)"+rest, "777", "x", 1)} {
		if got, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestRead(t *testing.T) {
	own, err := Read(os.Getpid())
	if err != nil || own.StartTime == 0 || own.MinorFaults < 100 {
		t.Errorf("this process: %+v, %v", own, err)
	}
	if _, err := Read(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("42 (sh)" + rest)
	f.Add(")")
	f.Fuzz(func(t *testing.T, text string) { _, _ = parse(text) })
}
