package memimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/internal/syscallfault"
)

// crashOps are the operations that crashMain does, on directories below dir.
func crashOps(dir string) map[string]func(ctx context.Context) error {
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	return map[string]func(ctx context.Context) error{
		"flatten": func(ctx context.Context) error {
			_, err := Flatten(ctx, FlattenOptions{Manifest: manifestOf(src)})
			return err
		},
		"supersede": func(ctx context.Context) error {
			was, err := ReadManifest(manifestOf(src))
			if err != nil {
				return err
			}
			_, err = Supersede(ctx, SupersedeOptions{Manifest: manifestOf(src), Was: was, From: manifestOf(filepath.Join(dir, "flat"))})
			return err
		},
		"prune": func(context.Context) error { _, err := Prune(manifestOf(src)); return err },
		"share": func(ctx context.Context) error { _, err := ShareImage(ctx, manifestOf(src), dst); return err },
		"sums":  func(ctx context.Context) error { _, err := WriteSums(ctx, manifestOf(src), nil); return err },
		"import": func(ctx context.Context) error {
			_, err := Import(ctx, ImportOptions{Memory: filepath.Join(dir, "raw"), VMState: filepath.Join(dir, "state"), Dir: dst})
			return err
		},
		"prepare": func(ctx context.Context) error {
			_, _, err := PrepareTarget(ctx, filepath.Join(dir, "linked"))
			return err
		},
	}
}

// crashMain does one of crashOps and dies without warning just before its N-th
// system call that changes a file.
func crashMain(op string, n int, dir string) int {
	var err error
	seq := &syscallfault.Sequence{N: n, Hit: func(syscallfault.Call) syscallfault.Errno {
		if kerr := syscall.Kill(os.Getpid(), syscall.SIGKILL); kerr != nil {
			return syscall.EINVAL
		}
		select {}
	}}
	serr := syscallfault.Run(seq.Decide, func() { err = crashOps(dir)[op](context.Background()) })
	switch {
	case errors.Is(serr, syscallfault.ErrUnsupported):
		fmt.Println(serr)
		return 3
	case errors.Join(serr, err) != nil:
		fmt.Println(errors.Join(serr, err))
		return 1
	}
	return 0
}

// TestKilledAtEachCall kills every operation before each of its system calls in
// turn. What it left must be the state before or after, once the owner has pruned
// an image or removed a directory that is none.
func TestKilledAtEachCall(t *testing.T) {
	for op := range crashOps("") {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			before, after := 0, 0
			for n := 0; ; n++ {
				dir, want := crashDir(t)
				out, state := runChild(t, op, n, dir)
				if state.ExitCode() == 3 {
					t.Skip(out)
				}
				status, ok := state.Sys().(syscall.WaitStatus)
				if !ok || !status.Signaled() && state.ExitCode() != 0 {
					t.Fatalf("killed at call %d: child ended with %v: %s", n, state, out)
				}
				assertAfterCrash(t, dir, want)
				if _, err := os.Stat(manifestOf(filepath.Join(dir, "dst"))); err == nil {
					after++
				} else {
					before++
				}
				if t.Failed() {
					t.Fatalf("killed at call %d", n)
				}
				if !status.Signaled() {
					if n < 3 {
						t.Errorf("only %d calls were there to be killed at", n)
					}
					break
				}
			}
			if (op == "share" || op == "import") && (before == 0 || after == 0) {
				t.Errorf("%d kills left no image and %d one", before, after)
			}
		})
	}
}

// crashDir makes what crashOps work on: the stack src with an orphaned layer, what it
// was merged into, an empty dst, and files to import and to prepare. It returns the memory of src.
func crashDir(t *testing.T) (string, []byte) {
	t.Helper()
	skipWithoutHoles(t)
	dir := t.TempDir()
	src, base := filepath.Join(dir, "src"), filepath.Join(dir, "base")
	flat := filepath.Join(dir, "flat")
	for _, name := range []string{src, base, flat, filepath.Join(dir, "dst")} {
		check(t, os.Mkdir(name, 0o755))
	}
	full := mustSeal(t, base, Manifest{}, 6, map[int][]byte{0: page(1), 2: page(2), 3: page(3)}).Manifest
	linkLayers(t, base, src, full)
	mustSeal(t, src, full, 6, map[int][]byte{2: page(0), 4: page(4)})
	flatOf(t, src, flat, src)
	orphan := filepath.Join(src, filepath.FromSlash(LayerFile(testID(1))))
	check(t, os.WriteFile(orphan, page(7), 0o444))
	writeMemory(t, filepath.Join(dir, "raw"), 8, crashContent())
	check(t, os.WriteFile(filepath.Join(dir, "state"), []byte("state"), 0o600))
	sparseFile(t, filepath.Join(dir, "foreign"))
	check(t, os.Link(filepath.Join(dir, "foreign"), filepath.Join(dir, "linked")))
	return dir, contents(t, src)
}

func assertAfterCrash(t *testing.T, dir string, want []byte) {
	t.Helper()
	src, dst, base := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), filepath.Join(dir, "base")
	if !bytes.Equal(contents(t, src), want) {
		t.Error("the image differs from what it was")
	}
	mustClose(t, mustOpen(t, base))
	_, err := Prune(manifestOf(src))
	check(t, err)
	assertNoTemporaries(t, src)
	if !bytes.Equal(contents(t, src), want) {
		t.Error("the image differs after pruning")
	}
	check(t, mustVerify(t, src).Err())
	if _, err := os.Stat(manifestOf(dst)); err == nil {
		check(t, mustVerify(t, dst).Err())
	}
	foreign, err := os.ReadFile(filepath.Join(dir, "foreign"))
	check(t, err)
	linked, err := os.ReadFile(filepath.Join(dir, "linked"))
	check(t, err)
	if !bytes.Equal(foreign, linked) || len(foreign) != 64*PageSize || foreign[0] != 1 {
		t.Error("the prepared file, or its other name, has changed")
	}
}
