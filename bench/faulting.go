package bench

import (
	"crypto/sha256"
	"time"

	"github.com/faultline-vm/faultline/bench/ref"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/uffd"
)

// faulting is a process whose memory, one region, is absent until a handler serves it.
type faulting interface {
	Pid() int
	// Handshake sends its userfaultfd and its region to whoever listens at socket.
	Handshake(socket string) error
	// takeFD returns the userfaultfd itself; the caller closes it.
	takeFD() (*uffd.FD, error)
	// base is the address of its memory.
	base() uint64
	// touch loads a word at each offset and returns what each load took.
	touch(offsets []uint64) ([]time.Duration, error)
	// sum is the hash of its memory. What is absent still is faulted in.
	sum() ([sha256.Size]byte, error)
	// Kill ends it.
	Kill() error
}

// inGo is a faulting process of this program. The threads of its runtime run beside
// the one that faults.
type inGo struct {
	*faulter.Process
	size uint64
}

// startInGo is a starter.
func startInGo(size uint64) (faulting, error) {
	p, err := faulter.Start(faulter.Config{Regions: []faulter.Region{{Size: size}}})
	if err != nil {
		return nil, err
	}
	return inGo{p, size}, nil
}

func (p inGo) takeFD() (*uffd.FD, error)                  { return p.TakeFD() }
func (p inGo) base() uint64                               { return p.Regions()[0].Address }
func (p inGo) touch(at []uint64) ([]time.Duration, error) { return p.Touch(0, at, false) }
func (p inGo) sum() ([sha256.Size]byte, error)            { return p.Sum(0, p.size) }

// inC is a faulting process that has, like a VMM, no other thread that runs.
type inC struct {
	*ref.VMM
	dir string
}

// startInC returns a starter; dir is for sockets.
func startInC(built ref.Programs, dir string) starter {
	return func(size uint64) (faulting, error) {
		v, err := built.StartVMM(size)
		if err != nil {
			return nil, err
		}
		return inC{v, dir}, nil
	}
}

func (p inC) takeFD() (*uffd.FD, error)                  { return p.TakeFD(p.dir) }
func (p inC) base() uint64                               { return p.Base() }
func (p inC) touch(at []uint64) ([]time.Duration, error) { return p.Touch(at) }
func (p inC) sum() ([sha256.Size]byte, error)            { return p.Sum() }

// starter starts a faulting process with memory of size bytes.
type starter func(size uint64) (faulting, error)
