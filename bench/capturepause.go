package bench

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// openStage opens an area in memory and returns what removes it.
func (r *run) openStage() (*stage.Area, func() error, error) {
	dir, err := os.MkdirTemp("/dev/shm", "fl-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("%w; mount a tmpfs at /dev/shm", err)
	}
	area, _, err := stage.Open(stage.Config{Dir: dir, Budget: 4 << 30})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return area, func() error { return errors.Join(area.Close(), os.RemoveAll(dir)) }, nil
}

// capturePause measures how long a guest stands still for a live capture that is
// staged in memory, against one that goes straight to disk.
func (r *run) capturePause() (out Case, err error) {
	out = limited("pause_staged_vs_disk", "ratio", 0.5)
	area, close, err := r.openStage()
	if err != nil {
		return out.skip(err), nil // a host without such a place
	}
	defer func() { err = errors.Join(err, close()) }()
	pages := r.dirty / 4096 * 2
	m, err := r.bootMachine("pause", pages*4096+room, workload(pages, 2))
	if err != nil {
		return out.skip(err), err
	}
	defer func() { err = errors.Join(err, r.end(m)) }()
	if _, err := capture.Take(r.ctx, m.request()); err != nil {
		return out.skip(err), err
	}
	var pauses [2][]int64
	for round := range r.pauseRounds {
		for _, staged := range []int{round % 2, 1 - round%2} {
			pause, err := r.pauseOnce(m, area, staged == 1)
			if err != nil {
				return out.skip(err), err
			}
			if round > 0 { // the first of each is warm-up
				pauses[staged] = append(pauses[staged], int64(pause))
			}
		}
		r.say("pause: round %d of %d", round+1, r.pauseRounds)
	}
	disk, staged := median(pauses[0]), median(pauses[1])
	return out.measured(round(staged/disk, 3), "median pause staged %.1f ms (%.1f to %.1f), straight to disk %.1f ms (%.1f to %.1f); %d live captures each, by turns, of %d dirty MiB; fcsim; on %s",
		staged/1e6, ms(quantile(pauses[1], 0)), ms(quantile(pauses[1], 1)), disk/1e6, ms(quantile(pauses[0], 0)), ms(quantile(pauses[0], 1)),
		len(pauses[0]), r.dirty>>20, filesystem(r.dir)), nil
}

func ms(nanoseconds int64) float64 { return float64(nanoseconds) / 1e6 }

// pauseOnce has the guest write, captures it live and returns its pause.
func (r *run) pauseOnce(m *machine, area *stage.Area, staged bool) (time.Duration, error) {
	if _, err := m.Write(r.ctx); err != nil {
		return 0, err
	}
	q := m.request()
	if staged {
		q.Stages = area
	}
	taken, err := capture.Take(r.ctx, q)
	switch {
	case err != nil:
		return 0, err
	case taken.Staged != staged:
		return 0, fmt.Errorf("the capture was not staged: %w", taken.Unstaged)
	case taken.Why != "":
		return 0, fmt.Errorf("the capture was full: %s", taken.Why)
	}
	// A short stack, whatever the number of rounds: only the newest is needed.
	return taken.Pause, removeCaptures(m.Ref().Dir, taken.Capture.Record.ID)
}

// filesystem names the type of the filesystem of a directory.
func filesystem(dir string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return "an unknown filesystem"
	}
	switch st.Type {
	case 0xef53:
		return "ext4"
	case 0x58465342:
		return "XFS"
	case 0x9123683e:
		return "btrfs"
	case 0x01021994:
		return "tmpfs"
	}
	return fmt.Sprintf("a filesystem of type %#x", st.Type)
}
