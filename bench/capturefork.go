package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/memimage"
)

// captureForks measures what a fork costs.
func (r *run) captureForks() ([]Case, error) {
	moved := limited("fork_memory_bytes", "B", 0)
	ratio := limited("fork_time_8g_vs_1g", "ratio", 1.2)
	skip := func(err error) ([]Case, error) { return []Case{moved.skip(err), ratio.skip(err)}, err }

	var sources [2]capture.Capture
	for i, memory := range []uint64{r.smallGuest, r.largeGuest} {
		r.say("fork: an image of %d MiB", memory>>20)
		c, err := r.largeCapture(fmt.Sprintf("fork-%d", i), memory)
		if err != nil {
			return skip(err)
		}
		sources[i] = c
	}
	var times [2][]int64
	var sum int64
	for round := range r.forkRounds {
		for _, i := range []int{round % 2, 1 - round%2} {
			taken, bytes, err := r.forkOnce(sources[i])
			if err != nil {
				return skip(err)
			}
			sum += bytes
			if round > 0 { // the first of each is warm-up
				times[i] = append(times[i], int64(taken))
			}
		}
	}
	how := fmt.Sprintf("%d forks each of a guest of %d MiB and one of %d MiB, by turns, every 16th page data; capture taken of sparse files, not by a VMM",
		len(times[0]), r.smallGuest>>20, r.largeGuest>>20)
	moved = moved.measured(float64(sum), "bytes of layers that came into the page cache by forking, or that are files of their own in a fork; over all of %s", how)
	ratio = ratio.measured(round(median(times[1])/median(times[0]), 3), "median of the larger %.2f ms, of the smaller %.2f ms; %s",
		median(times[1])/1e6, median(times[0])/1e6, how)
	return []Case{moved, ratio}, nil
}

// forkOnce forks a capture and returns how long it took and how many bytes of
// memory it has read or written.
func (r *run) forkOnce(c capture.Capture) (time.Duration, int64, error) {
	if err := eachLayer(c, evict); err != nil {
		return 0, 0, err
	}
	dir := filepath.Join(r.dir, "fork")
	began := time.Now()
	f, err := capture.Fork(r.ctx, c, capture.ForkOptions{Dir: dir})
	if err != nil {
		return 0, 0, err
	}
	taken := time.Since(began)
	var bytes int64
	err = eachLayer(f.Capture, func(path string) error {
		read, err := resident(path)
		if err != nil {
			return err
		}
		bytes += read
		written, err := foreign(path, c.Dir)
		bytes += written
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return taken, bytes, capture.Remove(dir)
}

// eachLayer calls do with the path of each layer of a capture.
func eachLayer(c capture.Capture, do func(path string) error) error {
	m, err := memimage.ReadManifest(c.ManifestPath())
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := do(filepath.Join(c.Dir, filepath.FromSlash(l.File))); err != nil {
			return err
		}
	}
	return nil
}

// foreign returns what a layer takes on disk, unless it is the same file as the
// layer of that name in the capture at dir.
func foreign(path, dir string) (int64, error) {
	own, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	source, err := os.Stat(filepath.Join(dir, memimage.LayersDir, filepath.Base(path)))
	if err != nil {
		return 0, err
	}
	if os.SameFile(own, source) {
		return 0, nil
	}
	return allocated(own), nil
}
