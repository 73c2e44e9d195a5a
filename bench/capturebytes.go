package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/faultline-vm/faultline/capture"
)

// slack is what a capture may write besides what is dirty, in bytes: VM state,
// indexes, the guest's own device queues.
const slack = 2 << 20

// captureBytes measures what captures of one guest write, against what the guest
// has written.
func (r *run) captureBytes() (out Case, err error) {
	out = limited("capture_bytes_vs_dirty", "ratio", 1.1)
	pages := r.dirty / 4096 * 2
	m, err := r.bootMachine("bytes", pages*4096+room, workload(pages, 2))
	if err != nil {
		return out.skip(err), err
	}
	defer func() { err = errors.Join(err, r.end(m)) }()
	area, close, noArea := r.openStage()
	if noArea == nil {
		defer func() { err = errors.Join(err, close()) }()
	}
	if _, err := capture.Take(r.ctx, m.request()); err != nil {
		return out.skip(err), err
	}
	worst, detail := 0.0, []string{}
	for _, kind := range []string{"live", "live, staged", "parking"} {
		q := m.request()
		switch kind {
		case "live, staged":
			if noArea != nil {
				detail = append(detail, kind+": "+noArea.Error())
				continue
			}
			q.Stages = area
		case "parking":
			q.Stop = true
		}
		cost, err := r.captureCost(m, q)
		if err != nil {
			return out.skip(err), err
		}
		worst = max(worst, cost.ratio())
		detail = append(detail, kind+": "+cost.String())
	}
	return out.measured(round(worst, 4), "largest of the ratios of bytes to dirty bytes, after subtracting %d MiB; fcsim; %s; on %s",
		slack>>20, strings.Join(detail, "; "), filesystem(r.dir)), nil
}

// cost is what one capture wrote, in bytes.
type cost struct {
	// disk is what the files of the capture take that are not also the base's.
	disk int64
	// written is what the kernel counts as written to disks by the VMM and this
	// program; -1 where the VMM has ended and cannot be asked.
	written int64
	dirty   int64
}

func (c cost) ratio() float64 { return float64(max(c.disk, c.written)-slack) / float64(c.dirty) }

func (c cost) String() string {
	written := "VMM ended"
	if c.written >= 0 {
		written = fmt.Sprintf("%.2f MiB written", mib(c.written))
	}
	return fmt.Sprintf("%.2f MiB dirty, %.2f MiB on disk, %s", mib(c.dirty), mib(c.disk), written)
}

// captureCost has the guest write and captures it.
func (r *run) captureCost(m *machine, q capture.Request) (cost, error) {
	report, err := m.Write(r.ctx)
	if err != nil {
		return cost{}, err
	}
	pids := []int{m.Ref().PID, os.Getpid()}
	before, err := writtenBy(pids)
	if err != nil {
		return cost{}, err
	}
	base, ok := m.lineage.Base()
	if !ok {
		return cost{}, errors.New("there is no base to take a diff over")
	}
	taken, err := capture.Take(r.ctx, q)
	if err != nil {
		return cost{}, err
	}
	c := cost{written: -1, dirty: int64(report.Pages) * 4096}
	if !q.Stop {
		after, err := writtenBy(pids)
		if err != nil {
			return cost{}, err
		}
		c.written = after - before
	}
	c.disk, err = ownBytes(taken.Capture.Dir, base.Dir)
	return c, err
}

// writtenBy sums up the bytes that processes have caused to be written to disks.
func writtenBy(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		text := proc(fmt.Sprintf("%d/io", pid))
		n, err := strconv.ParseInt(field(text, "write_bytes"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/io does not tell the bytes written: run as the owner of that process", pid)
		}
		sum += n
	}
	return sum, nil
}

// ownBytes sums up what the files below dir take on disk, but for those that are
// also below base under the same name.
func ownBytes(dir, base string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if other, err := os.Stat(filepath.Join(base, relative)); err == nil && os.SameFile(info, other) {
			return nil
		}
		sum += allocated(info)
		return nil
	})
	return sum, err
}
