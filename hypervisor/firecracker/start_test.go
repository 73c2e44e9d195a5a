package firecracker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestBootSendsTheWholeConfiguration(t *testing.T) {
	requireNoLeak(t)
	dir := shortdir.Make(t)
	spec := bootSpec(dir)
	spec.Initrd, spec.TrackDirtyPages, spec.HugePages = "initrd", true, hypervisor.Huge2M
	spec.Drives = []hypervisor.Drive{{ID: "root", Path: "disks/root", Root: true}, {ID: "data", Path: "disks/data", ReadOnly: true}}
	spec.Networks = []hypervisor.Network{{ID: "eth0", Tap: "tap0", GuestMAC: "06:00:00:00:00:01"}}
	spec.Vsock = &hypervisor.Vsock{GuestCID: 3, Path: "vsock.sock"}
	spec.Balloon = &hypervisor.Balloon{TargetMiB: 4, DeflateOnOOM: true, StatisticsSeconds: 1, Reporting: true}
	vmm, err := fakeDriver("serves").Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer vmm.Kill(context.Background())
	requests, err := os.ReadFile(filepath.Join(dir, "requests"))
	if err != nil {
		t.Fatal(err)
	}
	want := `PUT /machine-config {"vcpu_count":1,"mem_size_mib":64,"track_dirty_pages":true,"huge_pages":"2M"}
PUT /boot-source {"kernel_image_path":"vmlinux","initrd_path":"initrd","boot_args":"quiet"}
PUT /drives/root {"drive_id":"root","path_on_host":"disks/root","is_root_device":true,"is_read_only":false}
PUT /drives/data {"drive_id":"data","path_on_host":"disks/data","is_root_device":false,"is_read_only":true}
PUT /network-interfaces/eth0 {"iface_id":"eth0","host_dev_name":"tap0","guest_mac":"06:00:00:00:00:01"}
PUT /vsock {"guest_cid":3,"uds_path":"vsock.sock"}
PUT /balloon {"amount_mib":4,"deflate_on_oom":true,"stats_polling_interval_s":1,"free_page_reporting":true}
PUT /actions {"action_type":"InstanceStart"}
`
	if diff := cmp.Diff(want, string(requests)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestEarlyExitIsExplained(t *testing.T) {
	requireNoLeak(t)
	_, err := fakeDriver("dies").Boot(t.Context(), bootSpec(shortdir.Make(t)))
	if err == nil {
		t.Fatal("a VMM that ended at once was booted")
	}
	for _, want := range []string{"ended at once", "exit code 3", "no such ?[31mdevice"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestRefusedConfigurationLeavesNothing(t *testing.T) {
	requireNoLeak(t)
	dir := shortdir.Make(t)
	_, err := fakeDriver("refuses").Boot(t.Context(), bootSpec(dir))
	if _, err := os.Lstat(filepath.Join(dir, firecracker.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket: %v", err)
	}
	var refused *firecracker.APIError
	if !errors.As(err, &refused) {
		t.Fatalf("error %v, want an APIError", err)
	}
	want := firecracker.APIError{Status: 400, Method: "PUT", Path: "/machine-config", FaultMessage: "not /machine-config"}
	if diff := cmp.Diff(want, *refused); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestDeathDuringLoadIsExplained(t *testing.T) {
	requireNoLeak(t)
	_, err := fakeDriver("drops").Restore(t.Context(), hypervisor.RestoreSpec{
		Process: hypervisor.Process{Dir: shortdir.Make(t)}, StatePath: "vmstate",
		Memory: hypervisor.Memory{Backend: hypervisor.File, Path: "memory"},
	})
	if err == nil {
		t.Fatal("a VMM that died during its load was restored")
	}
	for _, want := range []string{"/snapshot/load", "exit code 7", "out of cheese"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestCancelKillsAndReaps(t *testing.T) {
	requireNoLeak(t)
	ctx, cancel := context.WithCancel(t.Context())
	dir := shortdir.Make(t)
	go func() {
		// The VMM's files are there once it is about to run.
		for {
			if _, err := os.Stat(filepath.Join(dir, firecracker.LogName)); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
		cancel()
	}()
	if _, err := fakeDriver("deaf").Boot(ctx, bootSpec(dir)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestSocketInTheWay(t *testing.T) {
	t.Run("stale", func(t *testing.T) {
		dir := shortdir.Make(t)
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, firecracker.SocketName)})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		listener.Close()
		boot(t, "serves", dir)
	})
	t.Run("live", func(t *testing.T) {
		dir := shortdir.Make(t)
		boot(t, "serves", dir)
		if _, err := fakeDriver("serves").Boot(t.Context(), bootSpec(dir)); err == nil || !strings.Contains(err.Error(), "a VMM answers") {
			t.Errorf("a second VMM in the directory of a running one: error %v", err)
		}
	})
	t.Run("file", func(t *testing.T) {
		dir := shortdir.Make(t)
		path := filepath.Join(dir, firecracker.SocketName)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := fakeDriver("serves").Boot(t.Context(), bootSpec(dir)); err == nil {
			t.Error("a file in the socket's place was ignored")
		}
		if content, _ := os.ReadFile(path); string(content) != "precious" {
			t.Error("a file in the socket's place was removed")
		}
	})
}

func TestPathLongerThanASocketAddress(t *testing.T) {
	requireNoLeak(t)
	dir := filepath.Join(shortdir.Make(t), strings.Repeat("d", 200))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	vmm := boot(t, "serves", dir)
	if state, err := vmm.State(t.Context()); err != nil || state != hypervisor.Running {
		t.Errorf("state %q, error %v", state, err)
	}
}

func TestConsoleAndInput(t *testing.T) {
	requireNoLeak(t)
	dir := shortdir.Make(t)
	if err := os.WriteFile(filepath.Join(dir, firecracker.ConsoleName), []byte("of an earlier VMM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vmm := boot(t, "serves", dir)
	console, err := vmm.Console(-1)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	for _, text := range []string{"one", "two"} {
		if err := vmm.Send([]byte(text)); err != nil {
			t.Fatal(err)
		}
		line, err := console.Next(t.Context())
		if err != nil || line.Text != "echo "+text {
			t.Fatalf("line %q, error %v", line.Text, err)
		}
	}
	if err := vmm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if line, err := console.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: line %q, error %v", line.Text, err)
	}
	if err := vmm.Send([]byte("x")); err == nil {
		t.Error("input for an ended VMM was accepted")
	}
}

func TestInputThatNobodyReads(t *testing.T) {
	dir := shortdir.Make(t)
	boot(t, "serves", dir).Kill(t.Context())
	if err := syscall.Mkfifo(filepath.Join(dir, "other"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := bootSpec(shortdir.Make(t))
	spec.Input = false
	vmm, err := fakeDriver("serves").Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer vmm.Kill(context.Background())
	if err := vmm.Send([]byte("x")); err == nil || !strings.Contains(err.Error(), "without input") {
		t.Errorf("input for a VMM without: error %v", err)
	}
}

func TestExitState(t *testing.T) {
	requireNoLeak(t)
	vmm := boot(t, "serves", shortdir.Make(t))
	if state := vmm.ExitState(); state.Known {
		t.Errorf("a running VMM has the exit state %v", state)
	}
	if err := vmm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hypervisor.ExitState{Known: true, Signal: syscall.SIGKILL}, vmm.ExitState()); diff != "" {
		t.Errorf("exit state (-want +got):\n%s", diff)
	}
	if err := vmm.Kill(t.Context()); err != nil {
		t.Errorf("second kill: %v", err)
	}
}

func TestAttach(t *testing.T) {
	requireNoLeak(t)
	first := boot(t, "serves", shortdir.Make(t))
	ref := first.Ref()
	second, err := firecracker.Attach(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := second.State(t.Context()); err != nil || state != hypervisor.Running {
		t.Errorf("state %q, error %v", state, err)
	}
	impostor := ref
	impostor.StartTime++
	if _, err := firecracker.Attach(t.Context(), impostor); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("another process with the same number: error %v", err)
	}
	if err := second.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-first.Exited()
	if second.ExitState().Known || !first.ExitState().Known {
		t.Errorf("exit states: attached %v, parent's %v", second.ExitState(), first.ExitState())
	}
	if _, err := firecracker.Attach(t.Context(), ref); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("an ended process: error %v", err)
	}
}

// Who has attached to a VMM learns how it ended, though it is not the parent.
func TestExitStateOfAttached(t *testing.T) {
	requireNoLeak(t)
	first := boot(t, "serves", shortdir.Make(t))
	second, err := firecracker.Attach(t.Context(), first.Ref())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first.Ref().PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-second.Exited()
	if !second.ExitState().Known && kernelBefore(t, 6, 15) {
		t.Skip("the kernel tells exit states to parents only; use Linux 6.15")
	}
	if diff := cmp.Diff(hypervisor.ExitState{Known: true, Signal: syscall.SIGTERM}, second.ExitState()); diff != "" {
		t.Errorf("exit state (-want +got):\n%s", diff)
	}
	<-first.Exited()
}

func kernelBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(string(text), "%d.%d", &a, &b); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return a < major || a == major && b < minor
}

func TestDieWithParent(t *testing.T) {
	cmd := exec.Command(fakeBinary().Path)
	cmd.Env = []string{fakeVariable + "=parent", "FAKE_DIR=" + shortdir.Make(t)}
	cmd.Stderr = os.Stderr
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the VMM does not live while its parent does: %v", err)
	}
	hold.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return // gone, or waiting for init to reap it
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the VMM outlived its parent")
		}
	}
}
