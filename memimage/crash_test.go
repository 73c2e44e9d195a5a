package memimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The variable that makes this binary a child which seals, in the directory that
// follows, under a limit or until it is killed.
const childEnv = "MEMIMAGE_TEST_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(childMain(spec))
	}
	os.Exit(m.Run())
}

// childMain seals the file "raw" in a directory. The spec is "kill N dir": die
// without warning at the N-th look at the context, or "limit N dir": write no file
// beyond N bytes. It says what came out. Other modes are those of crashMain.
func childMain(spec string) int {
	mode, rest, _ := strings.Cut(spec, " ")
	number, dir, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	ctx := context.Background()
	switch mode {
	case "kill":
		ctx = &countdown{Context: ctx, left: n, end: func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }}
	case "limit":
		signal.Ignore(syscall.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
			fmt.Println(err)
			return 2
		}
	default:
		return crashMain(mode, n, dir)
	}
	if _, err := sealRaw(ctx, dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// runChild runs childMain in a process of its own.
func runChild(t *testing.T, mode string, n int, dir string) (string, *os.ProcessState) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", childEnv, mode, n, dir))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState
}

// crashContent makes a layer with zero pages to punch.
func crashContent() map[int][]byte {
	return map[int][]byte{0: page(1), 1: page(0), 3: page(3), 4: page(0), 6: page(6)}
}

func TestKilledSealLeavesNoImageOrACompleteOne(t *testing.T) {
	states := make(map[string]bool)
	for looks := 0; ; looks++ {
		dir := t.TempDir()
		writeMemory(t, filepath.Join(dir, "raw"), 8, crashContent())
		out, state := runChild(t, "kill", looks, dir)
		status, ok := state.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() && state.ExitCode() != 0 {
			t.Fatalf("killed at look %d: child ended with %v: %s", looks, state, out)
		}
		_, rawErr := os.Stat(filepath.Join(dir, "raw"))
		_, manifestErr := os.Stat(filepath.Join(dir, ManifestName))
		states[fmt.Sprint(rawErr == nil, manifestErr == nil)] = true
		if manifestErr == nil {
			img := mustOpen(t, dir)
			for p := range img.Pages() {
				want, written := crashContent()[int(p)]
				if !written {
					want = page(0)
				}
				if got := readPage(t, img, p); string(got) != string(want) {
					t.Errorf("killed at look %d: page %d begins with %d", looks, p, got[0])
				}
			}
			mustClose(t, img)
		} else if rawErr == nil {
			// Nothing has been moved yet: the file may still be sealed elsewhere.
			next := t.TempDir()
			_, err := Seal(context.Background(), SealOptions{Source: filepath.Join(dir, "raw"), Dir: next, Kind: Full})
			check(t, err)
			mustClose(t, mustOpen(t, next))
		}
		if !status.Signaled() {
			break
		}
	}
	// The states raw or indexed, moved, and published must all have been met.
	for _, want := range []string{"true false", "false false", "false true"} {
		if !states[want] {
			t.Errorf("no kill left the state with (source, manifest) = (%s); met %v", want, states)
		}
	}
}

func TestFailedWriteGoesBack(t *testing.T) {
	// The index takes some 60 bytes and the manifest some 300.
	for limit, file := range map[int]string{16: ".idx", 150: ManifestName} {
		dir := t.TempDir()
		raw := filepath.Join(dir, "raw")
		writeMemory(t, raw, 8, crashContent())
		out, state := runChild(t, "limit", limit, dir)
		if state.ExitCode() != 1 || !strings.Contains(out, file) || !strings.Contains(out, unix.EFBIG.Error()) {
			t.Fatalf("limit of %d bytes: child ended with %v and %q, want an error about %s", limit, state, out, file)
		}
		assertRaw(t, raw, dir, crashContent(), 8)
		_, err := sealRaw(context.Background(), dir)
		check(t, err)
		mustClose(t, mustOpen(t, dir))
	}
}

func TestFullDiskGoesBack(t *testing.T) {
	mount := mountOrSkip(t, "size=1m")
	raw := filepath.Join(mount, "raw")
	content := make(map[int][]byte)
	for p := range 64 {
		content[p] = page(byte(p + 1))
	}
	writeMemory(t, raw, 64, content)
	// Take all the room there is.
	filler := filepath.Join(mount, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	_, err := sealRaw(context.Background(), mount)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	check(t, os.Remove(filler))
	assertRaw(t, raw, mount, content, 64)
	_, err = sealRaw(context.Background(), mount)
	check(t, err)
	mustClose(t, mustOpen(t, mount))
}
