package server

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestListen(t *testing.T) {
	dir := shortdir.Make(t)
	path := filepath.Join(dir, "s.sock")
	// What a dead daemon left is replaced.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gid := os.Getgid()
	if os.Getuid() == 0 {
		gid = 12345
	}
	listener, err := Listen(path, strconv.Itoa(gid))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o660 || int(info.Sys().(*syscall.Stat_t).Gid) != gid {
		t.Errorf("mode %v, group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := Unlink(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after Unlink: %v", err)
	}
}

func TestListenFails(t *testing.T) {
	dir := shortdir.Make(t)
	long := filepath.Join(dir, strings.Repeat("x", 108))
	for name, test := range map[string]struct{ path, group, says string }{
		"a path that is too long":  {long, "", "shorter"},
		"no such directory":        {filepath.Join(dir, "none", "s"), "", "none"},
		"no such group":            {filepath.Join(dir, "s"), "no-such-group-here", "groupadd"},
		"a directory in its place": {dir, "", dir},
	} {
		if listener, err := Listen(test.path, test.group); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, %v", name, listener, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}
