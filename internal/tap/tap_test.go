package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// require skips a test where taps cannot be made.
func require(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no %s; load the kernel module tun", device)
	}
	if os.Geteuid() != 0 {
		t.Skip("making taps needs CAP_NET_ADMIN; run as root")
	}
}

// owned returns a Host of its own and a name for a tap that is gone after the test.
func owned(t *testing.T) (Host, string) {
	t.Helper()
	h, err := New(fmt.Sprintf("faultline test %d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("flt%d", os.Getpid())
	t.Cleanup(func() {
		if err := h.Remove(name); err != nil {
			t.Error(err)
		}
	})
	return h, name
}

func TestMakeAndRemove(t *testing.T) {
	require(t)
	h, name := owned(t)
	for _, want := range []bool{true, false} {
		if made, err := h.Make(name); made != want || err != nil {
			t.Fatalf("made %v, want %v: %v", made, want, err)
		}
	}
	link, err := net.InterfaceByName(name)
	if err != nil || link.Flags&net.FlagUp == 0 {
		t.Errorf("%+v, %v: want one that is up", link, err)
	}
	if list, err := h.List(); err != nil || !slices.Equal(list, []string{name}) {
		t.Errorf("the owner's taps are %v, %v", list, err)
	}
	// A VMM opens it by its name, with the flags of its own.
	fd, err := attach(name, unix.IFF_VNET_HDR)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if err := h.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(name); err == nil {
		t.Error("it is still there")
	}
	if err := h.Remove(name); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
}

// What somebody else made is neither taken nor removed.
func TestOthersAreLeftAlone(t *testing.T) {
	require(t)
	h, name := owned(t)
	if _, err := h.Make(name); err != nil {
		t.Fatal(err)
	}
	other, err := New("faultline test, somebody else")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Make(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("made over another's: %v", err)
	}
	if err := other.Remove(name); err != nil {
		t.Error(err)
	}
	if list, err := other.List(); err != nil || len(list) != 0 {
		t.Errorf("the other's taps are %v, %v", list, err)
	}
	if list, err := h.List(); err != nil || len(list) != 1 {
		t.Errorf("the owner's taps are %v, %v", list, err)
	}
}

// The error of who lacks the capability names it.
func TestWithoutCapability(t *testing.T) {
	const child = "FAULTLINE_TEST_TAP"
	if os.Getenv(child) != "" {
		_, err := Host{"faultline test"}.Make("flt-none")
		fmt.Println(errors.Is(err, ErrPermission), err)
		os.Exit(0)
	}
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no %s; load the kernel module tun", device)
	}
	if os.Geteuid() != 0 {
		if _, err := (Host{"faultline test"}).Make("flt-none"); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Error(err)
		}
		return
	}
	const nobody = 65534
	program, err := os.Open(os.Args[0]) // which that user could not find by its name
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=TestWithoutCapability$")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNew(t *testing.T) {
	for _, owner := range []string{"", strings.Repeat("x", maxOwner+1)} {
		if _, err := New(owner); err == nil {
			t.Errorf("an owner of %d bytes was accepted", len(owner))
		}
	}
}

func TestAcknowledged(t *testing.T) {
	if err := acknowledged(nil); err == nil {
		t.Error("an empty answer was accepted")
	}
	if err := acknowledged(setLink(1, "x")); err == nil {
		t.Error("a request was taken for an answer")
	}
}
