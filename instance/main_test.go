package instance

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		os.Exit(victim())
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// built is the directory of binaries, once there is one.
var built string

// binaries builds fcsim and the pager once and returns their directory.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		return "", err
	}
	built = dir
	build := exec.Command("go", "build", "-o", dir+"/", "github.com/faultline-vm/faultline/cmd/fcsim", "github.com/faultline-vm/faultline/cmd/faultline-pager")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build: %w: %s", err, out)
	}
	return dir, nil
})

// simulator returns the driver of fcsim.
func simulator(t testing.TB) hypervisor.Hypervisor {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := firecracker.Probe(context.Background(), filepath.Join(dir, firecracker.Simulator))
	if err != nil {
		t.Fatal(err)
	}
	return firecracker.New(firecracker.Config{Binary: binary})
}

const testMemory = 32 * mebibyte

// site is a data directory with what a test puts into it.
type site struct {
	t      testing.TB
	dir    string // holds data, kernel and disk
	cfg    Config
	kernel string
	work   guest.Workload
}

// siteConfig is the configuration of the site in dir.
func siteConfig(dir, bin string, hv hypervisor.Hypervisor) Config {
	return Config{
		DataDir: filepath.Join(dir, "data"), Hypervisor: hv, TapTemplate: "t{id}-{n}", Taps: fakeTaps{filepath.Join(dir, "taps")},
		Reconfigure: Reconfigure{Command: []string{"/bin/true"}}, Pager: supervised(dir, bin),
	}
}

// newSite returns a site whose VMMs and pager end with the test.
func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taps"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, kernel: filepath.Join(dir, "kernel.in"), work: testWork()}
	s.write("kernel.in", "any kernel")
	s.write("disk.in", "a disk")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = siteConfig(dir, bin, simulator(t))
	if testing.Verbose() {
		s.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	t.Cleanup(s.clear)
	return s
}

func (s *site) write(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// clear ends all that the test has left, and removes the directory.
func (s *site) clear() {
	for _, pid := range s.vmms() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	s.killPagers()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// vmms returns the pids of all VMMs of the site.
func (s *site) vmms() []int {
	s.t.Helper()
	found, err := findVMMs(filepath.Join(s.cfg.DataDir, "instances"))
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, refs := range found {
		for _, ref := range refs {
			pids = append(pids, ref.PID)
		}
	}
	return pids
}

// pager returns a client of the site's pager, which need not run.
func (s *site) pager() *client.Client {
	return client.New(pager.ControlSocket(s.cfg.DataDir, pager.Version()))
}

// pagers returns the pagers that run, by version.
func (s *site) pagers() map[string]control.Health {
	s.t.Helper()
	list, err := supervisor.Versions(context.Background(), s.cfg.DataDir)
	if err != nil {
		s.t.Fatal(err)
	}
	running := map[string]control.Health{}
	for _, v := range list {
		if v.Err == nil {
			running[v.Version] = v.Health
		}
	}
	return running
}

// killPagers ends all pagers.
func (s *site) killPagers() {
	s.t.Helper()
	for _, h := range s.pagers() {
		if p, err := os.FindProcess(h.PID); err == nil {
			_ = p.Kill()
		}
	}
}

// sessions returns the ids of all active sessions, at whichever version.
func (s *site) sessions() []string {
	s.t.Helper()
	var ids []string
	for version := range s.pagers() {
		c := client.New(pager.ControlSocket(s.cfg.DataDir, version))
		list, err := c.Sessions(context.Background())
		c.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, session := range list {
			if session.State.Active() {
				ids = append(ids, session.ID)
			}
		}
	}
	return ids
}

// open opens a Manager that is closed with the test.
func (s *site) open() *Manager {
	s.t.Helper()
	m, err := Open(context.Background(), s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return m
}

// failing sets failpoints for the Managers that are opened from now on.
func (s *site) failing(text string) {
	s.t.Helper()
	set, err := failpoint.Parse(text, Failpoints()...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cfg.Failpoints = set
}

// spec describes a small guest with one writable disk and one network interface.
func (s *site) spec() Spec {
	return Spec{
		Kernel: s.kernel, BootArgs: s.work.BootArgs(), VCPUs: 1, MemoryBytes: testMemory,
		Drives:   []Drive{{ID: "rootfs", Source: filepath.Join(s.dir, "disk.in"), Root: true}},
		Networks: []Network{{ID: "eth0"}},
	}
}

// within bounds everything a test waits for; it is far longer than anything takes.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// create makes and starts an instance and waits until its guest has filled its
// memory.
func (s *site) create(m *Manager, name string, spec Spec) Instance {
	s.t.Helper()
	ctx := within(s.t)
	if _, err := m.Create(ctx, CreateRequest{Name: name, Spec: spec}); err != nil {
		s.t.Fatal(err)
	}
	i, err := m.Start(ctx, name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.await(m, name, guest.Ready)
	return i
}

// await waits for a guest's report since its VMM began.
func (s *site) await(m *Manager, ref string, kind guest.Kind) guest.Report {
	s.t.Helper()
	return s.listen(m, ref, kind, nil)
}

// ask sends a guest a command and returns its answer, which must find no page wrong.
func (s *site) ask(m *Manager, ref string, command byte, kind guest.Kind) guest.Report {
	s.t.Helper()
	r := s.listen(m, ref, kind, []byte{command})
	if r.Bad != 0 {
		s.t.Errorf("%s: %d pages are wrong, page %d first", ref, r.Bad, r.First)
	}
	return r
}

func (s *site) listen(m *Manager, ref string, kind guest.Kind, command []byte) guest.Report {
	s.t.Helper()
	ctx := within(s.t)
	offset := int64(-1)
	if command != nil {
		i, err := m.Get(ref)
		if err != nil {
			s.t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(i.Dir, firecracker.ConsoleName))
		if err != nil {
			s.t.Fatal(err)
		}
		offset = info.Size()
	}
	console, err := m.Console(ref, offset)
	if err != nil {
		s.t.Fatal(err)
	}
	defer console.Close()
	if command != nil {
		if err := m.Send(ctx, ref, command); err != nil {
			s.t.Fatal(err)
		}
	}
	for {
		line, err := console.Next(ctx)
		if err != nil {
			s.t.Fatalf("%s: waiting for %s: %v", ref, kind, err)
		}
		report, ours, err := guest.ParseReport(line.Text)
		if err != nil {
			s.t.Fatal(err)
		}
		if ours && report.Kind == kind {
			return report
		}
	}
}

// code returns the code of an error, or "".
func code(err error) string {
	if err == nil {
		return ""
	}
	return problem.From(err).Code
}

// mustBe fails unless an instance is in a state.
func mustBe(t testing.TB, m *Manager, ref string, want State) Instance {
	t.Helper()
	i, err := m.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if i.State != want {
		t.Fatalf("%s is %s (%s), want %s", ref, i.State, i.Reason, want)
	}
	return i
}

// tree lists all files below a directory, relative to it.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && !strings.HasPrefix(path, filepath.Join(dir, "uffd")) {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
