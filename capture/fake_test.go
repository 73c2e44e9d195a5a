package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/memimage"
)

const (
	fakePages  = 32
	fakeMemory = fakePages * memimage.PageSize
)

// fakeVMM is a VMM in this process: memory that a test writes and compares, a
// bitmap of dirty pages, and snapshots as Firecracker writes them. It runs no
// goroutine, so that faults injected into a caller's system calls hit its own too.
type fakeVMM struct {
	hypervisor.VMM // nil: what a test should not call
	dir            string
	memory         []byte
	dirty          [fakePages]bool
	state          hypervisor.State
	killed         bool
	snapshots      []hypervisor.SnapshotSpec
	// fail, if set, is asked before each request.
	fail func(request string) error
	// after, if set, is called when a snapshot is complete.
	after func()
}

// newFake returns a running VMM in a new directory.
func newFake(t *testing.T) *fakeVMM {
	t.Helper()
	dir := filepath.Join(memoryDir(t), "vm")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &fakeVMM{dir: dir, memory: make([]byte, fakeMemory), state: hypervisor.Running}
}

// restoreFake returns a VMM with the memory of a capture in its instance's directory.
func restoreFake(t *testing.T, dir string, c Capture) *fakeVMM {
	t.Helper()
	return &fakeVMM{dir: dir, memory: readImage(t, c), state: hypervisor.Running}
}

func (v *fakeVMM) Ref() hypervisor.ProcessRef { return hypervisor.ProcessRef{Dir: v.dir} }

func (v *fakeVMM) State(context.Context) (hypervisor.State, error) { return v.state, v.ask("state") }

func (v *fakeVMM) Pause(context.Context) error {
	if err := v.ask("pause"); err != nil {
		return err
	}
	v.state = hypervisor.Paused
	return nil
}

func (v *fakeVMM) Resume(context.Context) error {
	if err := v.ask("resume"); err != nil {
		return err
	}
	v.state = hypervisor.Running
	return nil
}

func (v *fakeVMM) Kill(context.Context) error {
	if err := v.ask("kill"); err != nil {
		return err
	}
	v.killed, v.state = true, hypervisor.NotStarted
	return nil
}

func (v *fakeVMM) ask(request string) error {
	if v.fail == nil {
		return nil
	}
	return v.fail(request)
}

// Snapshot forgets what is dirty only when it has succeeded, as Firecracker does.
func (v *fakeVMM) Snapshot(_ context.Context, spec hypervisor.SnapshotSpec) error {
	if err := v.ask("snapshot"); err != nil {
		return err
	}
	if v.state != hypervisor.Paused {
		return errors.New("the fake is not paused")
	}
	v.snapshots = append(v.snapshots, spec)
	if err := v.write(spec); err != nil {
		return &firecracker.APIError{Status: 400, Method: "PUT", Path: "/snapshot/create", FaultMessage: err.Error()}
	}
	v.dirty = [fakePages]bool{}
	if v.after != nil {
		v.after()
	}
	return nil
}

func (v *fakeVMM) write(spec hypervisor.SnapshotSpec) error {
	path := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(v.dir, p)
	}
	// The state tells which moment it is of.
	if err := os.WriteFile(path(spec.StatePath), v.stateBytes(), 0o644); err != nil {
		return err
	}
	f, err := os.OpenFile(path(spec.MemoryPath), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(fakeMemory); err != nil {
		return err
	}
	for p := range fakePages {
		if spec.Kind == hypervisor.Diff && !v.dirty[p] {
			continue
		}
		if _, err := f.WriteAt(v.memory[p*memimage.PageSize:][:memimage.PageSize], int64(p*memimage.PageSize)); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (v *fakeVMM) stateBytes() []byte {
	sum := uint64(14695981039346656037)
	for _, b := range v.memory {
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	return fmt.Appendf(nil, "state of a guest whose memory has sum %016x", sum)
}

// set fills a page of the guest with one byte.
func (v *fakeVMM) set(page int, value byte) {
	copy(v.memory[page*memimage.PageSize:], bytes.Repeat([]byte{value}, memimage.PageSize))
	v.dirty[page] = true
}

func (v *fakeVMM) setDisk(t *testing.T, name, content string) {
	t.Helper()
	dir := filepath.Join(v.dir, DisksDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (v *fakeVMM) captures() string { return filepath.Join(v.dir, CapturesDir) }

// request is one for a live capture of this VMM.
func (v *fakeVMM) request(l *Lineage) Request {
	return Request{
		VMM: v, Lineage: l,
		Hypervisor: hypervisor.Description{Name: "fcsim", Version: "v1.16.0", SnapshotVersion: "v1.0.0"},
	}
}

func mustTake(t *testing.T, r Request) Result {
	t.Helper()
	result, err := Take(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// readImage returns the memory of a capture.
func readImage(t *testing.T, c Capture) []byte {
	t.Helper()
	image, err := memimage.Open(c.ManifestPath())
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	memory := make([]byte, image.Size())
	if _, err := image.ReadAt(memory, 0); err != nil {
		t.Fatal(err)
	}
	return memory
}

// want is what a capture must hold.
type want struct {
	memory []byte
	state  []byte
	disks  map[string]string
}

// now is what a capture of this moment must hold.
func (v *fakeVMM) now(t *testing.T, disks []Disk) want {
	t.Helper()
	w := want{memory: bytes.Clone(v.memory), state: v.stateBytes(), disks: map[string]string{}}
	for _, d := range disks {
		w.disks[d.Name] = readFile(t, filepath.Join(v.dir, DisksDir, d.Name))
	}
	return w
}

// verify compares a capture with what it must hold, as a stranger opens it.
func (w want) verify(t *testing.T, dir string) {
	t.Helper()
	c, err := Open(dir)
	if err != nil {
		t.Errorf("capture: %v", err)
		return
	}
	if !bytes.Equal(readImage(t, c), w.memory) {
		t.Errorf("%s: the memory differs", dir)
	}
	if got := readFile(t, c.StatePath()); got != string(w.state) {
		t.Errorf("%s: VM state %q, want %q", dir, got, w.state)
	}
	for name, content := range w.disks {
		if got := readFile(t, filepath.Join(dir, DisksDir, name)); got != content {
			t.Errorf("%s: disk %s holds %q, want %q", dir, name, got, content)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists a directory; one that does not exist is empty.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// memoryDir makes a directory in memory, where there is such a place: what is
// tested here is no matter of a disk, which would take most of the time.
func memoryDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{"/dev/shm", ""} {
		if dir, err := os.MkdirTemp(parent, "fl"); err == nil {
			t.Cleanup(func() { os.RemoveAll(dir) })
			return dir
		}
	}
	t.Fatal("no directory for temporary files")
	return ""
}
