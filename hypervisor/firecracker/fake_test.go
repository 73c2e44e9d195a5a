package firecracker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// The test binary is its own fake VMM: started with FAKE_VMM set, it behaves as
// the value says instead of running tests.
const fakeVariable = "FAKE_VMM"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeVariable); mode != "" {
		os.Exit(fake(mode))
	}
	os.Exit(m.Run())
}

func fake(mode string) int {
	switch mode {
	case "dies":
		fmt.Fprintln(os.Stderr, "no such \x1b[31mdevice")
		return 3
	case "deaf": // never listens
		time.Sleep(time.Hour)
	case "parent": // starts a VMM that dies with it, and then ends
		v, err := firecracker.Start(context.Background(), firecracker.Options{
			Binary: fakeBinary(), Dir: os.Getenv("FAKE_DIR"), Env: []string{fakeVariable + "=serves"}, DieWithParent: true,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(v.Ref().PID)
		_, _ = io.ReadAll(os.Stdin) // until the test lets go
		return 0
	case "serves", "refuses", "drops":
		listener, err := net.Listen("unix", firecracker.SocketName)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() { // the serial console echoes
			line := make([]byte, 100)
			for {
				n, err := os.Stdin.Read(line)
				if n > 0 {
					fmt.Printf("echo %s\n", line[:n])
				}
				if err != nil {
					return
				}
			}
		}()
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(mode, w, r) }))
	}
	return 0
}

// answer records each request in the working directory and answers as mode says.
func answer(mode string, w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	record, _ := os.OpenFile("requests", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fmt.Fprintf(record, "%s %s %s\n", r.Method, r.URL.Path, body)
	record.Close()
	switch {
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]string{"state": "Running", "id": "fake"})
	case mode == "refuses":
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": "not " + r.URL.Path})
	case mode == "drops" && r.URL.Path == "/snapshot/load":
		fmt.Fprintln(os.Stderr, "out of cheese")
		os.Exit(7)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func fakeBinary() firecracker.Binary {
	self, err := os.Executable()
	if err != nil {
		panic(err) // a test without an executable
	}
	return firecracker.Binary{Path: self, Name: firecracker.Real, Version: firecracker.Version{Major: 1, Minor: 16}}
}

func fakeDriver(mode string) *firecracker.Driver {
	return firecracker.New(firecracker.Config{Binary: fakeBinary(), Env: []string{fakeVariable + "=" + mode}})
}

// requireNoLeak fails the test if, when it ends, it has left a child process or
// an open descriptor behind.
func requireNoLeak(t *testing.T) {
	t.Helper()
	before := openFiles(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for {
			children, after := children(t), openFiles(t)
			if len(children) == 0 && len(after) <= len(before) {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("left behind: processes %v, descriptors %v (before: %v)", children, after, before)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The directory being read, and what the runtime opens once for good.
		if err != nil || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "anon_inode:[event") {
			continue
		}
		open = append(open, e.Name()+"→"+target)
	}
	return open
}

func children(t *testing.T) []int {
	t.Helper()
	var pids []int
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		list, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(list)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func boot(t *testing.T, mode, dir string) *firecracker.VMM {
	t.Helper()
	vmm, err := fakeDriver(mode).Boot(t.Context(), bootSpec(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vmm.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return vmm.(*firecracker.VMM)
}

func bootSpec(dir string) hypervisor.BootSpec {
	return hypervisor.BootSpec{
		Process: hypervisor.Process{Dir: dir, Input: true},
		Kernel:  "vmlinux", BootArgs: "quiet", VCPUs: 1, MemoryMiB: 64,
	}
}
