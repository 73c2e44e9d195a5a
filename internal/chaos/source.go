package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/internal/talk"
	"github.com/faultline-vm/faultline/memimage"
)

// source is what the forks of cells are made of: a guest that was booted, has filled
// its memory and was captured. Cells of the same guest share it.
type source struct {
	guest   guestProgram
	capture capture.Capture
	size    uint64            // of the guest's memory in bytes
	sum     [sha256.Size]byte // of all of it
}

// bootTime bounds the boot of a guest. An emulated Linux takes 20 s and more.
const bootTime = 4 * time.Minute

// sourceOf returns the source of a cell's guest, which it makes if it is the first.
func (r *run) sourceOf(ctx context.Context, c Cell) (*source, error) {
	kind := "workload"
	if c.linux() {
		kind = "linux"
	}
	name := strings.Join([]string{c.VMM, kind, c.Page, c.VCPUs}, "-")
	if s := r.sources[name]; s != nil {
		return s, nil
	}
	s := &source{guest: newWorkload(c)}
	if c.linux() {
		s.guest = linuxGuest{r.host.linux}
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := s.make(ctx, c, r.host.drivers[c.VMM], filepath.Join(r.dir, name)); err != nil {
		return nil, fmt.Errorf("the guest that is to be forked: %w", err)
	}
	r.sources[name] = s
	return s, nil
}

func (s *source) make(ctx context.Context, c Cell, hv hypervisor.Hypervisor, dir string) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	spec := hypervisor.BootSpec{Process: hypervisor.Process{Dir: dir, Input: true}, VCPUs: 1}
	if c.VCPUs == fourCPUs {
		spec.VCPUs = 4
	}
	if c.Page == page2M {
		spec.HugePages = hypervisor.Huge2M
	}
	if err := s.guest.boot(&spec); err != nil {
		return err
	}
	vmm, err := hv.Boot(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kill(ctx, vmm)) }()
	t, err := talk.Open(vmm)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := s.guest.booted(ctx, t); err != nil {
		return err
	}
	taken, err := capture.Take(ctx, capture.Request{
		VMM: vmm, Hypervisor: hv.Describe(), Lineage: capture.Booted(false), Stop: true,
	})
	if err != nil {
		return err
	}
	s.capture = taken.Capture
	s.size, s.sum, err = sumOf(taken.Capture.ManifestPath())
	return err
}

// sumOf hashes a flat image.
func sumOf(manifest string) (size uint64, sum [sha256.Size]byte, err error) {
	image, err := memimage.Open(manifest)
	if err != nil {
		return 0, sum, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	path, err := image.FlatPath()
	if err != nil {
		return 0, sum, err
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, sum, err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return 0, sum, err
	}
	return image.Size(), [sha256.Size]byte(hash.Sum(nil)), nil
}

// cleanUpTime bounds what is done after a context has ended.
const cleanUpTime = 20 * time.Second

// kill ends a VMM, also when the context has ended.
func kill(ctx context.Context, vmm hypervisor.VMM) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	return vmm.Kill(ctx)
}
