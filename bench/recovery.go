package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/demo"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// recoverySize is how much work the cases of the group recovery do.
type recoverySize struct {
	attached      int // sessions that a killed or replaced pager has
	attachedPages int // of each
	upgrades      int
}

func fullRecoverySize() recoverySize {
	return recoverySize{attached: 100, attachedPages: 4096, upgrades: 10}
}

// defaultKills is how often the pager is killed under bursts of forks.
const defaultKills = 1000

// recovery measures the group of that name.
func (r *run) recovery() ([]Case, error) {
	binary, err := supervisor.FindBinary(r.PagerBinary)
	if err != nil {
		return nil, err
	}
	kill, killErr := r.killAttached(binary)
	upgrade, upgradeErr := r.upgradeAttached(binary)
	kills, killsErr := r.killUnderBursts(binary)
	return append(append(kill, upgrade), kills...), errors.Join(killErr, upgradeErr, killsErr)
}

// herd is processes whose memory one pager serves.
type herd struct {
	processes []*faulter.Process
	img       image
}

// attach starts the processes and attaches them to a pager.
func (r *run) attach(pager *client.Client, name string) (h herd, end func() error, err error) {
	end = func() error {
		var errs []error
		for _, p := range h.processes {
			errs = append(errs, p.Kill())
		}
		return errors.Join(errs...)
	}
	if h.img, err = makeImage(r.ctx, filepath.Join(r.dir, name+"-image"), r.attachedPages); err != nil {
		return h, end, err
	}
	for i := range r.attached {
		p, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: h.img.size()}}})
		if err != nil {
			return h, end, err
		}
		h.processes = append(h.processes, p)
		s, err := pager.CreateSession(r.ctx, control.SessionRequest{ID: fmt.Sprint(name, "-", i), Image: h.img.manifest})
		if err == nil {
			err = p.Handshake(s.Socket)
		}
		if err == nil {
			_, err = p.Touch(0, []uint64{0}, false)
		}
		if err != nil {
			return h, end, err
		}
		if i%25 == 24 {
			r.say("recovery: %d of %d processes attached", i+1, r.attached)
		}
	}
	return h, end, nil
}

// verify has each process hash all of its memory.
func (h herd) verify() error {
	for i, p := range h.processes {
		sum, err := p.Sum(0, h.img.size())
		if err == nil && sum != h.img.sum {
			err = errors.New("its memory is not the image's")
		}
		if err != nil {
			return fmt.Errorf("process %d: %w", i, err)
		}
	}
	return nil
}

// killAttached kills a pager with many sessions, and measures how long it takes until
// its successor serves them, and how long a guest's thread waits that faults meanwhile.
func (r *run) killAttached(binary string) (cases []Case, err error) {
	readopt, stall := limited("readopt_ms", "ms", 300), limited("kill_stall_ms", "ms", 1000)
	fail := func(err error) ([]Case, error) {
		return []Case{readopt.skip(err), stall.skip(err)}, lacking(err)
	}
	s, err := supervisor.Supervise(context.WithoutCancel(r.ctx), supervisor.Config{
		Options: supervisor.Options{Binary: binary, DataDir: filepath.Join(r.dir, "kill")}, Manager: supervisor.Child,
	})
	if err != nil {
		return fail(err)
	}
	defer func() {
		ctx, cancel := r.cleanUpContext()
		defer cancel()
		err = errors.Join(err, s.Stop(ctx))
	}()
	h, end, err := r.attach(s.Client, "kill")
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return fail(err)
	}
	victim, err := os.FindProcess(s.PID())
	if err != nil {
		return fail(err)
	}
	before := victim.Pid
	if err := victim.Kill(); err != nil {
		return fail(err)
	}
	var calls []*faulter.Call[[]time.Duration]
	for i, p := range h.processes {
		page := uint64(1 + i%(r.attachedPages-1))
		calls = append(calls, p.StartTouch(0, []uint64{page * 4096}, false))
	}
	longest, err := r.awaitTouches(calls)
	if err != nil {
		return fail(err)
	}
	// Each session has answered a fault: all are served.
	health, err := s.Health(r.ctx)
	if err == nil && health.PID == before {
		err = fmt.Errorf("pager %d answers, which was killed", before)
	}
	if err != nil {
		return fail(err)
	}
	cpu, err := processorTime(health.PID)
	if err != nil {
		return fail(err)
	}
	if err := h.verify(); err != nil {
		return fail(err)
	}
	return []Case{
		readopt.measured(float64(health.UptimeMS), "from the start of the new process, by its own clock, until each of the %d sessions had answered a fault; its threads had run for %.0f ms", r.attached, cpu.Seconds()*1000),
		stall.measured(round(longest.Seconds()*1000, 1), "longest of %d threads that touched an absent page right behind the kill -9, until they ran on; a supervisor restarted the pager; every byte of all guests was then compared", len(calls)),
	}, nil
}

// processorTime returns how long the threads of a process have run: the first field of
// their schedstat in /proc, in nanoseconds. It says what work takes on a busy host.
func processorTime(pid int) (sum time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, thread := range threads {
		text, readErr := os.ReadFile(thread)
		if readErr != nil {
			continue // it has ended
		}
		var ran time.Duration
		if _, err := fmt.Sscan(string(text), (*int64)(&ran)); err != nil {
			return 0, fmt.Errorf("%s: %w", thread, err)
		}
		sum += ran
	}
	return sum, err
}

// awaitTouches waits for accesses to one page each, and returns how long the longest took.
func (r *run) awaitTouches(calls []*faulter.Call[[]time.Duration]) (longest time.Duration, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	for i, call := range calls {
		select {
		case <-call.Done():
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d sessions have answered a fault after the kill: %w", i, len(calls), context.Cause(ctx))
		}
		latencies, err := call.Wait()
		if err != nil {
			return 0, err
		}
		longest = max(longest, latencies[0])
	}
	return longest, nil
}

// upgradeAttached hands the sessions of one pager to another and back while two guests
// touch one absent page after the other, and measures the longest of these faults.
func (r *run) upgradeAttached(binary string) (c Case, err error) {
	out := limited("upgrade_stall_ms", "ms", 50)
	data := filepath.Join(r.dir, "upgrade")
	from, err := r.startAs(binary, data, "0.0.1")
	if err != nil {
		return out.skip(err), lacking(err)
	}
	defer func() { from.stop() }()
	h, end, err := r.attach(from.Client, "upgrade")
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return out.skip(err), lacking(err)
	}
	offsets := h.img.scattered()
	var longest time.Duration
	var touched int
	part := len(offsets) / r.upgrades
	for n := range r.upgrades {
		to, err := r.startAs(binary, data, fmt.Sprintf("0.1.%d", n))
		if err != nil {
			return out.skip(err), err
		}
		touching := []*faulter.Process{h.processes[rand.IntN(len(h.processes)/2)], h.processes[len(h.processes)/2+rand.IntN(len(h.processes)/2)]}
		worst, count, err := r.handOverWhile(from, to, touching, offsets[n*part:(n+1)*part])
		if err != nil {
			to.stop()
			return out.skip(err), err
		}
		longest, touched = max(longest, worst), touched+count
		from.wait()
		from = to
	}
	if err := h.verify(); err != nil {
		return out.skip(err), err
	}
	return out.measured(round(longest.Seconds()*1000, 1),
		"longest of %d faults in %d guests out of %d, all of which were handed over %d times between two live pagers meanwhile; every byte of all guests was then compared",
		touched, 2, r.attached, r.upgrades), nil
}

// handOverWhile hands all sessions over while processes touch pages until it is done.
func (r *run) handOverWhile(from, to *pagerProcess, touching []*faulter.Process, offsets []uint64) (longest time.Duration, count int, err error) {
	over := make(chan struct{})
	var handed control.Handover
	var handErr error
	go func() {
		defer close(over)
		handed, handErr = from.Handover(r.ctx, control.HandoverRequest{To: to.dir})
	}()
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, p := range touching {
		group.Go(func() {
			for _, offset := range offsets {
				select {
				case <-over:
					return
				default:
				}
				latencies, touchErr := p.Touch(0, []uint64{offset}, false)
				mu.Lock()
				if err = errors.Join(err, touchErr); touchErr == nil {
					longest, count = max(longest, latencies[0]), count+1
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	<-over
	if handErr == nil && (handed.HandedOver != r.attached || len(handed.Kept) > 0) {
		handErr = fmt.Errorf("%d of %d sessions were handed over, kept: %v", handed.HandedOver, r.attached, handed.Kept)
	}
	return longest, count, errors.Join(err, handErr)
}

// pagerProcess is a pager that serves under another version's name.
type pagerProcess struct {
	*client.Client
	dir string
	cmd *exec.Cmd
}

func (r *run) startAs(binary, data, version string) (*pagerProcess, error) {
	p := &pagerProcess{
		Client: client.New(pager.ControlSocket(data, version)), dir: pager.Dir(data, version),
		cmd: exec.Command(binary, "--data-dir", data, "--as", version),
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := p.Health(ctx); err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			p.stop()
			return nil, fmt.Errorf("the pager under version %s does not answer: %w", version, ctx.Err())
		}
		time.Sleep(time.Millisecond)
	}
}

// stop ends the process at once; wait waits for its end by itself.
func (p *pagerProcess) stop() {
	_ = p.cmd.Process.Kill()
	p.wait()
}

func (p *pagerProcess) wait() {
	_ = p.cmd.Wait()
	p.Client.Close()
}

// killUnderBursts kills the pager at random moments under bursts of forks.
func (r *run) killUnderBursts(binary string) ([]Case, error) {
	wrong, lost := limited("kills_wrong_pages", "pages", 0), limited("kills_lost_vms", "VMs", 0)
	var kills, bursts, repeated, lostVMs int
	var verified, mismatched uint64
	for kills < r.Kills {
		result, err := demo.Run(r.ctx, demo.Config{
			Forks: 25, Parallel: 25, Memory: 256 << 20, WorkingSet: 64 << 20,
			Hypervisor: "fcsim", Backend: instance.Uffd, DataDir: r.dir,
			PagerBinary: binary, SimulatorBinary: r.SimulatorBinary, KillPager: min(r.Kills-kills, 100), Progress: r.Progress,
		})
		if err != nil {
			return []Case{wrong.skip(err), lost.skip(err)}, err
		}
		bursts++
		kills, repeated, lostVMs = kills+result.PagerKills, repeated+result.LoadsRepeated, lostVMs+result.VMsLost
		verified, mismatched = verified+result.PagesVerified, mismatched+result.PagesMismatched
		r.say("recovery: %d of %d kills, %d VMs lost, %d pages wrong", kills, r.Kills, lostVMs, mismatched)
		if !result.OK() && lostVMs == 0 && mismatched == 0 {
			err := fmt.Errorf("a burst failed: %v", result.Failures)
			return []Case{wrong.skip(err), lost.skip(err)}, err
		}
	}
	about := fmt.Sprintf("%d kills at random moments of %d bursts of 25 forks on fcsim; %d pages verified; %d loads began again", kills, bursts, verified, repeated)
	return []Case{wrong.measured(float64(mismatched), "%s", about), lost.measured(float64(lostVMs), "%s", about)}, nil
}
