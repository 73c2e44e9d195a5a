package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/memimage"
)

// Config describes an area.
type Config struct {
	// Dir is a directory on tmpfs, such as /dev/shm/faultline. It is made when it
	// is missing, and everything in it belongs to the area.
	Dir string
	// Budget is the largest number of bytes that all stages together may take.
	Budget uint64
	// Reserve is the number of bytes of the host's available memory that stages
	// leave alone.
	Reserve uint64
}

// Area is a directory of stages. Any number of goroutines may use it.
type Area struct {
	config Config
	// lock is the open directory; its flock keeps other areas away.
	lock *os.File

	// mu guards stages and what they have reserved.
	mu     sync.Mutex
	stages map[*Stage]bool
}

// ErrInUse: another area has the directory.
var ErrInUse = errors.New("stage directory is in use by another process")

// NoRoomError says why a capture cannot be staged. It is not a failure: the capture
// goes straight to disk.
type NoRoomError struct {
	// Need is what was asked for, and Room what there is, in bytes.
	Need, Room uint64
	// Limit names what has run out: "budget", "tmpfs" or "memory".
	Limit string
}

// Error names the limit and the remedy.
func (e *NoRoomError) Error() string {
	return fmt.Sprintf("no room to stage %d bytes: the %s has %d left; the capture goes to disk, unless the budget or the host's memory is raised", e.Need, e.Limit, e.Room)
}

// Open opens the area at a directory and removes what an earlier process left in
// it; removed lists that. It fails with [ErrInUse] where another area is open.
func Open(c Config) (area *Area, removed []string, err error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open stage area: %w", err)
	}
	lock, err := os.OpenFile(c.Dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open stage area: %w", err)
	}
	removed, err = claim(c.Dir, lock)
	if err != nil {
		return nil, removed, fmt.Errorf("open stage area %s: %w", c.Dir, errors.Join(err, lock.Close()))
	}
	return &Area{config: c, lock: lock, stages: make(map[*Stage]bool)}, removed, nil
}

// claim locks a directory, checks that it is fit and empties it.
func claim(dir string, lock *os.File) (removed []string, err error) {
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(lock.Fd()), &st); err != nil {
		return nil, err
	}
	if uint32(st.Type) != unix.TMPFS_MAGIC {
		return nil, errors.New("the directory is not on tmpfs: staging there would gain nothing; give one in /dev/shm")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := os.RemoveAll(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	if ok, err := memimage.ReportsHoles(dir); err != nil {
		return removed, err
	} else if !ok {
		return removed, errors.New("its tmpfs has huge pages, so that diffs cannot be told from what is below; mount one with huge=never")
	}
	return removed, nil
}

// Close discards all stages and gives up the directory, which stays, empty.
func (a *Area) Close() error {
	a.mu.Lock()
	var open []*Stage
	for s := range a.stages {
		open = append(open, s)
	}
	a.mu.Unlock()
	var errs []error
	for _, s := range open {
		errs = append(errs, s.Discard())
	}
	return errors.Join(append(errs, a.lock.Close())...)
}

// Usage says what an area holds.
type Usage struct {
	// Stages is the number of stages that are not discarded.
	Stages int `json:"stages"`
	// Reserved is the number of bytes that they have reserved.
	Reserved uint64 `json:"reserved_bytes"`
	// Budget is the limit of Reserved, in bytes.
	Budget uint64 `json:"budget_bytes"`
}

// Usage returns what the area holds now.
func (a *Area) Usage() Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Usage{Stages: len(a.stages), Reserved: a.reserved(), Budget: a.config.Budget}
}

// reserved sums up the reservations. The caller holds mu.
func (a *Area) reserved() uint64 {
	var sum uint64
	for s := range a.stages {
		sum += s.reserved
	}
	return sum
}

// Begin reserves need bytes: the most that the VMM may write, which for a full
// capture is the guest's memory. It gives a *[NoRoomError] where there is not as
// much. The stage must be discarded.
func (a *Area) Begin(need uint64) (*Stage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.check(need); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(a.config.Dir, "stage-")
	if err != nil {
		return nil, fmt.Errorf("begin stage: %w", err)
	}
	s := &Stage{area: a, dir: dir, reserved: need}
	a.stages[s] = true
	return s, nil
}

// check looks whether need bytes more fit. The caller holds mu.
func (a *Area) check(need uint64) error {
	if room := less(a.config.Budget, a.reserved()); need > room {
		return &NoRoomError{Need: need, Room: room, Limit: "budget"}
	}
	// What other stages are still going to write is not yet missing anywhere.
	var pending uint64
	for s := range a.stages {
		written, err := diskUsage(s.dir)
		if err != nil {
			return fmt.Errorf("begin stage: %w", err)
		}
		pending += less(s.reserved, written)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(a.lock.Fd()), &st); err != nil {
		return fmt.Errorf("begin stage: statfs: %w", err)
	}
	// A tmpfs without a limit has no blocks at all.
	if room := less(st.Bavail*uint64(st.Bsize), pending); st.Blocks > 0 && need > room {
		return &NoRoomError{Need: need, Room: room, Limit: "tmpfs"}
	}
	free, err := memAvailable()
	if err != nil {
		return fmt.Errorf("begin stage: %w", err)
	}
	if room := less(less(free, a.config.Reserve), pending); need > room {
		return &NoRoomError{Need: need, Room: room, Limit: "memory"}
	}
	return nil
}

// less subtracts and stops at 0.
func less(a, b uint64) uint64 { return a - min(a, b) }

// diskUsage sums up what the files below a directory take.
func diskUsage(dir string) (sum uint64, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += uint64(st.Blocks) * 512
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		// The stage is being discarded.
		return sum, nil
	}
	return sum, err
}
