package hypervisor_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/hypervisor"
)

func newLog(t *testing.T) (path string, log *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "console.log")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return path, log
}

func write(t *testing.T, log *os.File, text string) {
	t.Helper()
	if _, err := log.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string, offset int64, exited <-chan struct{}) *hypervisor.Console {
	t.Helper()
	console, err := hypervisor.OpenConsole(path, offset, exited)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { console.Close() })
	return console
}

func TestConsoleFollows(t *testing.T) {
	path, log := newLog(t)
	exited := make(chan struct{})
	write(t, log, "before\nfirst\r\nsec")
	console := open(t, path, int64(len("before\n")), exited)
	next := func(want hypervisor.Line) {
		t.Helper()
		got, err := console.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("line (-want +got):\n%s", diff)
		}
	}
	next(hypervisor.Line{Text: "first", End: 14})
	go func() {
		log.WriteString("ond\n")
		log.WriteString("unfinished")
		close(exited)
	}()
	next(hypervisor.Line{Text: "second", End: 21})
	next(hypervisor.Line{Text: "unfinished", End: 31})
	if line, err := console.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %q, error %v", line.Text, err)
	}
}

func TestConsoleEndsWithContext(t *testing.T) {
	path, _ := newLog(t)
	console := open(t, path, 0, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := console.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestConsoleMissing(t *testing.T) {
	if _, err := hypervisor.OpenConsole(filepath.Join(t.TempDir(), "none"), 0, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// Whatever a guest writes, the lines together are what it wrote, none is longer
// than MaxLine, and each End is where the next line begins.
func TestConsoleLosesNothing(t *testing.T) {
	exited := make(chan struct{})
	close(exited)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		for _, length := range rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 200),
			rapid.IntRange(hypervisor.MaxLine-2, 2*hypervisor.MaxLine+2)), 0, 8).Draw(t, "lengths") {
			text.WriteString(strings.Repeat(rapid.SampledFrom([]string{"a", "ß", "\x00"}).Draw(t, "letter"), length))
			text.WriteString(rapid.SampledFrom([]string{"\n", "\r\n", ""}).Draw(t, "end"))
		}
		path := filepath.Join(dir, "log")
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		console, err := hypervisor.OpenConsole(path, 0, exited)
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		at := int64(0)
		for {
			line, err := console.Next(context.Background())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(line.Text) > hypervisor.MaxLine {
				t.Fatalf("a line of %d bytes", len(line.Text))
			}
			if written := text.String()[at:line.End]; line.Text != strings.TrimRight(written, "\r\n") {
				t.Fatalf("bytes %d to %d gave %q instead of %q", at, line.End, line.Text, written)
			}
			at = line.End
		}
		if at != int64(text.Len()) {
			t.Fatalf("%d bytes returned of %d", at, text.Len())
		}
	})
}
