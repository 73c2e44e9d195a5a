package memimage

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// loopMount makes a filesystem in a file and mounts it.
func loopMount(t *testing.T, mkfs ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem takes root; run the tests as root")
	}
	tool, err := exec.LookPath(mkfs[0])
	if err != nil {
		t.Skipf("%v; install btrfs-progs, xfsprogs or e2fsprogs", err)
	}
	dir := t.TempDir()
	file, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	check(t, os.WriteFile(file, nil, 0o600))
	check(t, os.Truncate(file, 512<<20))
	check(t, os.Mkdir(mount, 0o755))
	if out, err := exec.Command(tool, append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", tool, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", file, mount).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s; use a kernel with loop devices and this filesystem", err, bytes.TrimSpace(out))
	}
	t.Cleanup(func() { check(t, unix.Unmount(mount, 0)) })
	return mount
}

// used returns the bytes that are taken on a filesystem, once all is written.
func used(t *testing.T, mount string) int64 {
	t.Helper()
	d, err := os.Open(mount)
	check(t, err)
	defer d.Close()
	check(t, unix.Syncfs(int(d.Fd())))
	var st unix.Statfs_t
	check(t, unix.Statfs(mount, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestOnRealFilesystems copies, guards, flattens, exports and verifies on the
// filesystems that hosts have. Where blocks can be shared, none of that takes room.
func TestOnRealFilesystems(t *testing.T) {
	for name, c := range map[string]struct {
		mkfs []string
		rung Rung
	}{
		"btrfs": {[]string{"mkfs.btrfs", "-q"}, Reflink},
		"xfs":   {[]string{"mkfs.xfs", "-q", "-m", "reflink=1"}, Reflink},
		"ext4":  {[]string{"mkfs.ext4", "-q"}, SparseCopy},
	} {
		t.Run(name, func(t *testing.T) {
			const pages, dirty = 16 << 20 / PageSize, 1000
			mount := loopMount(t, c.mkfs...)
			dirs := make([]string, 3)
			for i := range dirs {
				dirs[i] = filepath.Join(mount, string(rune('a'+i)))
				check(t, os.Mkdir(dirs[i], 0o755))
			}
			full := mustSeal(t, dirs[0], Manifest{}, pages, noise(1, 0, pages)).Manifest
			linkLayers(t, dirs[0], dirs[1], full)
			mustSeal(t, dirs[1], full, pages, noise(2, 500, 500+dirty))
			stack := manifestOf(dirs[1])
			want := contents(t, dirs[1])

			before := used(t, mount)
			mem, _ := layerPaths(dirs[1], full.Layers[0])
			got, err := Copy(context.Background(), mem, filepath.Join(mount, "copy"), 0o600)
			check(t, err)
			if got.Rung != c.rung || (got.Reason == nil) != (c.rung == Reflink) {
				t.Errorf("copied by %+v, want %s", got, c.rung)
			}
			target, _, err := PrepareTarget(context.Background(), mem)
			if target != TargetReplaced || err != nil {
				t.Errorf("target %q, %v", target, err)
			}
			_, err = Flatten(context.Background(), FlattenOptions{Manifest: stack, Dir: dirs[2]})
			check(t, err)
			check(t, Export(context.Background(), stack, filepath.Join(mount, "export"), nil))
			growth := used(t, mount) - before
			if c.rung == Reflink && growth > 16<<20 {
				t.Errorf("four files of 16 MiB took %d more bytes: their blocks are not shared", growth)
			}
			t.Logf("a copy, a guarded target, a flat layer and an export of 16 MiB each took %d KiB", growth>>10)

			check(t, mustVerify(t, dirs[2]).Err())
			exported, err := os.ReadFile(filepath.Join(mount, "export"))
			check(t, err)
			if !bytes.Equal(exported, want) || !bytes.Equal(contents(t, dirs[2]), want) || !bytes.Equal(contents(t, dirs[1]), want) {
				t.Error("stack, flat image and exported file differ")
			}
		})
	}
}

// noise returns pages that nothing can compress.
func noise(seed byte, first, end int) map[int][]byte {
	rng := rand.NewChaCha8([32]byte{seed})
	out := make(map[int][]byte)
	for p := first; p < end; p++ {
		out[p] = make([]byte, PageSize)
		_, _ = rng.Read(out[p])
	}
	return out
}
