package progress

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLine(t *testing.T) {
	for _, test := range []struct {
		done, total int64
		want        string
	}{
		{0, 0, "fork 3s"},
		{0, 4, "fork [........................] 0 of 4 3s"},
		{1, 4, "fork [######..................] 1 of 4 3s"},
		{4, 4, "fork [########################] 4 of 4 3s"},
		{9, 4, "fork [########################] 9 of 4 3s"},
		{-1, 4, "fork [........................] -1 of 4 3s"},
	} {
		b := Start(&bytes.Buffer{}, "work")
		b.Set("fork", test.done, test.total)
		if got := b.line(3 * time.Second); got != test.want {
			t.Errorf("%d of %d: %q, want %q", test.done, test.total, got, test.want)
		}
	}
}

func TestNothingWithoutATerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if IsTerminal(file) || IsTerminal(&bytes.Buffer{}) {
		t.Error("a file passes for a terminal")
	}
	b := Start(file, "work")
	b.Stop()
	b.Stop()
	if info, err := file.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("wrote %v, %v", info, err)
	}
}

// A bar on a terminal shows its line and takes it away.
func TestOnATerminal(t *testing.T) {
	terminal, output := openTerminal(t)
	b := Start(terminal, "boot")
	seen := output("boot")
	b.Stop()
	fmt.Fprint(terminal, "END")
	if seen += output("END"); !strings.HasSuffix(seen, "\r\x1b[KEND") {
		t.Errorf("the terminal shows %q", seen)
	}
}
