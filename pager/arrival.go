package pager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/internal/strictjson"
	"github.com/faultline-vm/faultline/uffd"
)

// A VMM that has connected sends its handshake once, waits for no answer, and does not
// notice that nobody has it: if the pager dies before the handshake is in the journal,
// the load of its snapshot would stand still until whoever began it loses patience. So
// the journal says who connected, before the handshake is read: the next pager ends that
// VMM, unless its connection came back (see reception.go), and the load fails at once.
//
// What is left is a VMM that connected and was not yet accepted, where no service manager
// kept the listener, or whose pager died within the accept. Nobody knows of it.

// savedArrival is the content of arriving.json.
type savedArrival struct {
	Format    int    `json:"format"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // as in savedAttachment
}

const arrivalFile = "arriving.json"

// errLostHandshake is the cause of a session whose VMM sent its handshake to a pager
// that died with it.
var errLostHandshake = errors.New("the pager died while the VMM made its handshake, which is lost; the VMM was ended, restore again")

// arrive records who connected.
func (j journal) arrive(vmm *pidfd.Process) error {
	return j.write(arrivalFile, savedArrival{Format: journalFormat, PID: vmm.PID(), StartTime: vmm.StartTime()})
}

// notArrived forgets who connected: it was a probe.
func (j journal) notArrived() error { return os.Remove(filepath.Join(j.dir, arrivalFile)) }

// loadArrival reads who connected, if somebody did and no VMM is attached.
func (s *saved) loadArrival(j journal) error {
	path := filepath.Join(j.dir, arrivalFile)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.decodeArrival(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (s *saved) decodeArrival(data []byte) error {
	var a savedArrival
	if err := strictjson.Unmarshal(data, &a); err != nil {
		return err
	}
	if a.Format != journalFormat || a.PID <= 0 {
		return fmt.Errorf("format %d and pid %d are not of this pager's making", a.Format, a.PID)
	}
	s.pid, s.start = a.PID, a.StartTime
	return nil
}

// endArrived ends the VMM of a handshake that is lost, and returns why the session is
// over then. The session goes on waiting if nobody had connected, or a process that has
// ended or holds no guest.
func (s *session) endArrived(found saved) error {
	if found.attached || found.pid == 0 || s.reception.cameBack(found.pid) {
		return nil
	}
	vmm, err := reopenVMM(found.pid, found.start)
	if errors.Is(err, errVMMExited) {
		return s.journal.notArrived()
	}
	if err != nil {
		return err
	}
	defer vmm.Close()
	numbers, err := uffd.Find(vmm.PID())
	if errors.Is(err, uffd.ErrGone) || err == nil && len(numbers) == 0 {
		return s.journal.notArrived()
	}
	// Where one may not look, it is a VMM: nobody else has business at its socket.
	if err := vmm.End(killTimeout); err != nil {
		return fmt.Errorf("process %d: %w; and %w", vmm.PID(), errLostHandshake, err)
	}
	return fmt.Errorf("process %d: %w", vmm.PID(), errLostHandshake)
}
