// Package loopmount gives tests the filesystems that hosts have: each in a file of its
// own, mounted for the time of one test.
//
// The package is for tests alone and has no state; the mount belongs to the test.
package loopmount

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// size is more than the smallest filesystem that any mkfs makes; the file is sparse.
const size = 512 << 20

// Commands that make a filesystem in the file whose name is added, by its name.
var commands = map[string][]string{
	"btrfs": {"mkfs.btrfs", "-q"},
	"xfs":   {"mkfs.xfs", "-q", "-m", "reflink=1"},
	"ext4":  {"mkfs.ext4", "-q"},
}

// Names lists the filesystems that Mount knows.
func Names() []string { return []string{"btrfs", "xfs", "ext4"} }

// Reflinks tells whether a filesystem can share blocks between files.
func Reflinks(name string) bool { return name != "ext4" }

// Mount makes a filesystem and returns the directory where it is mounted. The test is
// skipped where the user, the programs or the kernel do not allow that.
func Mount(t testing.TB, name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem takes root; run the tests as root")
	}
	command := commands[name]
	tool, err := exec.LookPath(command[0])
	if err != nil {
		t.Skipf("%v; install btrfs-progs, xfsprogs or e2fsprogs", err)
	}
	dir := t.TempDir()
	file, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, append(command[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", tool, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", file, mount).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s; use a kernel with loop devices and this filesystem", err, bytes.TrimSpace(out))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	return mount
}

// Used returns the bytes that are taken on a filesystem, once all is written.
func Used(t testing.TB, mount string) int64 {
	t.Helper()
	d, err := os.Open(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}
