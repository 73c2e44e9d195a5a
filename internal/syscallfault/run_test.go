package syscallfault

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEveryCallFailsOnce(t *testing.T) {
	failed := map[string]bool{}
	for n := 0; ; n++ {
		dir := t.TempDir()
		seq := &Sequence{N: n, Hit: func(c Call) Errno { failed[c.Name] = true; return unix.EDQUOT }}
		var err error
		work := func() {
			from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			if err = os.WriteFile(from, []byte("x"), 0o600); err != nil {
				return
			}
			err = os.Rename(from, to)
		}
		if serr := Run(seq.Decide, work); errors.Is(serr, ErrUnsupported) {
			t.Skip(serr)
		} else if serr != nil {
			t.Fatal(serr)
		}
		if !seq.Reached() {
			if err != nil {
				t.Errorf("no call failed, and yet: %v", err)
			}
			break
		}
		if !errors.Is(err, unix.EDQUOT) {
			t.Errorf("call %d failed, and the error is %v", n, err)
		}
	}
	for _, name := range []string{"openat", "write", "renameat"} {
		if !failed[name] {
			t.Errorf("%s never failed; met %v", name, failed)
		}
	}
	// The thread of this test is unaffected.
	if err := os.WriteFile(filepath.Join(t.TempDir(), "c"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}
