package fcsim

import (
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// vmPhase is the state that GET / reports.
type vmPhase string

const (
	notStarted vmPhase = "Not started"
	running    vmPhase = "Running"
	paused     vmPhase = "Paused"
)

// What the VMM itself writes into guest memory, by guest-physical address: the
// kernel command line where Firecracker puts it, and a VM generation ID in the
// page below the BIOS data area's end. The latter makes every load touch memory.
const (
	commandLineAddress  = 0x20000
	generationIDAddress = 0x9f000
	maxCommandLine      = 2048
)

// machine is the microVM and the VMM thread: a holder of mu is that thread.
type machine struct {
	id       string
	log      *slog.Logger
	target   *logTarget
	metrics  metrics
	console  io.Writer
	exit     *exitOnce
	patience time.Duration // how long a pause waits for vCPUs

	mu         sync.Mutex
	phase      vmPhase
	configured bool // something other than logger and metrics was
	config     machineConfig
	boot       *bootSource
	devices    *devices
	balloon    *balloon
	mem        *memory
	link       *pagerLink // nil unless loaded lazily
	cpus       *cpus
	inflate    chan struct{} // capacity 1: the balloon may have something to do
	input      io.Reader
}

func newMachine(id string, log *slog.Logger, target *logTarget, stdin io.Reader, console io.Writer) *machine {
	return &machine{
		id: id, log: log, target: target, console: console, input: stdin,
		exit:     &exitOnce{code: make(chan int, 1)},
		patience: pauseTimeout,
		phase:    notStarted,
		config:   defaultMachine(),
		devices:  &devices{},
		inflate:  make(chan struct{}, 1),
	}
}

// start boots the guest: InstanceStart.
func (m *machine) start() error {
	if m.phase != notStarted {
		return errPostBoot()
	}
	if m.boot == nil {
		return faultf("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	w, err := parseWorkload(*m.boot, m.config.MemSizeMiB<<20)
	if err != nil {
		return faultf("Start microvm error: %w", err)
	}
	raiseProcs(int(m.config.VCPUs))
	m.mem, err = mapMemory(memoryOptions{spans: layout(m.config.MemSizeMiB << 20), page: m.config.pageSize(), track: m.config.Track})
	if err != nil {
		return faultf("Start microvm error: %w", err)
	}
	line := ""
	if m.boot.BootArgs != nil {
		line = *m.boot.BootArgs
	}
	m.touch(func() { copy(m.mem.writable(commandLineAddress), line) })
	m.newGenerationID()
	m.cpus = newCPUs(m.mem, w, newProgress(w, int(m.config.VCPUs)), m.driver(), m.console, m.fatal, m.kickBalloon)
	m.cpus.boot()
	m.run()
	m.cpus.resume()
	m.phase = running
	return nil
}

// driver is the balloon that the guest sees: one without pages if there is none.
func (m *machine) driver() *balloon {
	if m.balloon == nil {
		return &balloon{}
	}
	return m.balloon
}

// run starts the threads of a guest that exists, paused.
func (m *machine) run() {
	m.cpus.start()
	go m.cpus.feed(m.input)
	if m.balloon != nil {
		go m.inflateBalloon()
	}
}

// touch is an access of the VMM to guest memory. It does not come back from a
// page that cannot be had.
func (m *machine) touch(f func()) {
	if !m.mem.guard(f) {
		m.fatal()
		select {} // the process ends in the meantime, and this request has no answer
	}
}

// fatal ends the process as Firecracker's SIGBUS handler does.
func (m *machine) fatal() {
	m.log.Error("Shutting down VM after intercepting signal 7 (SIGBUS): a page of guest memory could not be had")
	m.exit.set(exitSIGBUS)
}

// newGenerationID tells the guest that it is another one now. Firecracker does the
// same on the VMM's thread before a load returns.
func (m *machine) newGenerationID() {
	// The kernel may write random bytes by itself, and a kernel's fault is not
	// served by a userfaultfd in its user-mode-only form: hence the copy.
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	m.touch(func() { copy(m.mem.writable(generationIDAddress), id[:]) })
}

func (m *machine) pause() error {
	if m.phase == notStarted {
		return errPreBoot()
	}
	start := time.Now()
	if m.phase == running {
		if !m.cpus.pause(m.patience) {
			return faultf("Internal VMM error: Failed to message the vCPUs.")
		}
		m.phase = paused
	}
	m.metrics.pauseVM.Store(since(start))
	return nil
}

func (m *machine) resume() error {
	if m.phase == notStarted {
		return errPreBoot()
	}
	start := time.Now()
	m.cpus.resume()
	m.phase = running
	m.kickBalloon()
	m.metrics.resumeVM.Store(since(start))
	return nil
}

// snapshot writes the two files. On failure the VM stays paused and usable, and
// what was dirty stays dirty.
func (m *machine) snapshot(c snapshotConfig) error {
	switch m.phase {
	case notStarted:
		return errPreBoot()
	case running:
		return faultf("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running")
	}
	start := time.Now()
	if err := writeState(c.statePath, m.state(c.kind == snapshotFull)); err != nil {
		return faultf("Create snapshot error: %w", err)
	}
	var err error
	m.touch(func() { err = m.mem.writeMemory(c.memPath, c.kind) })
	if err != nil {
		return faultf("Create snapshot error: %w", err)
	}
	if c.kind == snapshotFull {
		if m.balloon != nil {
			m.balloon.base = m.balloon.zeroed.Load()
		}
		m.metrics.fullCreate.Store(since(start))
	} else {
		m.metrics.diffCreate.Store(since(start))
	}
	return nil
}

func (m *machine) state(full bool) *vmState {
	s := &vmState{
		Machine: m.config, Boot: *m.boot, Spans: layout(m.mem.size), Guest: m.cpus.saved(),
		Drives: m.devices.driveConfigs(), Nets: m.devices.nets,
	}
	// Whether pages are tracked is not part of a snapshot: each load says it anew.
	s.Machine.Track = false
	if m.devices.vsock != nil {
		s.Vsock = &m.devices.vsock.config
	}
	if m.balloon != nil {
		state := m.balloon.state(full)
		s.Balloon = &state
	}
	return s
}

// load restores a snapshot. Any failure but one of order is the end of the
// process, once the request is answered: too much was changed to try again.
func (m *machine) load(c loadConfig) error {
	if m.phase != notStarted {
		return errPostBoot()
	}
	if m.configured {
		return faultf("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	}
	start := time.Now()
	if err := m.restore(c); err != nil {
		m.exit.set(exitError)
		return faultf("Load snapshot error: Failed to restore from snapshot: %w", err)
	}
	m.phase = paused
	if c.resume {
		if err := m.resume(); err != nil {
			return err
		}
	}
	m.metrics.loadSnapshot.Store(since(start))
	return nil
}

func (m *machine) restore(c loadConfig) error {
	s, err := loadState(c)
	if err != nil {
		return err
	}
	raiseProcs(int(s.Machine.VCPUs))
	if m.mem, m.link, err = loadMemory(s, c, m.log); err != nil {
		return err
	}
	restored, err := restoreDevices(s)
	if err != nil {
		return err
	}
	m.devices = restored
	w, err := s.workload()
	if err != nil {
		return err
	}
	m.config, m.boot = s.Machine, &s.Boot
	m.config.Track = c.track
	if s.Balloon != nil {
		m.balloon = s.Balloon.restore()
	}
	m.newGenerationID()
	m.cpus = newCPUs(m.mem, w, s.Guest, m.driver(), m.console, m.fatal, m.kickBalloon)
	m.run()
	return nil
}

// close gives everything back; only for a process that goes on without the
// machine. The vCPUs must not be in a page fault.
func (m *machine) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices.close()
	if m.cpus != nil {
		m.cpus.stop()
		_ = m.mem.unmap()
	}
	m.phase = notStarted
	close(m.inflate)
}

// openKernel checks the files of a boot source, which are not read.
func openKernel(b bootSource) error {
	if err := readable(b.Kernel); err != nil {
		return faultf("Boot source error: The kernel file cannot be opened: %w", osFault(err))
	}
	if b.Initrd != nil {
		if err := readable(*b.Initrd); err != nil {
			return faultf("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %w", osFault(err))
		}
	}
	if b.BootArgs != nil && len(*b.BootArgs) >= maxCommandLine {
		return faultf("Boot source error: The kernel command line is invalid: command line too large: %d bytes, the limit is %d", len(*b.BootArgs), maxCommandLine-1)
	}
	return nil
}

func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}
