package bench

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/uffd"
)

// naive is the pager that one writes first: one message per read, one read of the
// memory file per fault, one copy. It runs in this process, which never touches
// the memory that faults. It ends when its wake event is signalled.
type naive struct{}

func (naive) serve(_ context.Context, process faulting, img image) (func() error, error) {
	fd, err := process.takeFD()
	if err != nil {
		return nil, err
	}
	wake, err := uffd.NewEvent()
	if err != nil {
		return nil, errors.Join(err, fd.Close())
	}
	memory, err := os.Open(img.memory)
	if err != nil {
		return nil, errors.Join(err, fd.Close(), wake.Close())
	}
	served := make(chan error, 1)
	base := process.base()
	go func() { served <- serveNaively(fd, wake, memory, base) }()
	return func() error {
		err := wake.Signal()
		return errors.Join(err, <-served, fd.Close(), wake.Close(), memory.Close())
	}, nil
}

func serveNaively(fd *uffd.FD, wake *uffd.Event, memory *os.File, base uint64) error {
	page := make([]byte, memimage.PageSize)
	messages := make([]uffd.Message, 1)
	for {
		readable, woken, err := fd.Wait(wake, -1)
		if err != nil || woken {
			return err
		}
		if !readable {
			continue
		}
		if n, err := fd.Read(messages); err != nil || n == 0 {
			return errors.Join(err, errors.New("no message where one was announced"))
		}
		address, _ := messages[0].Pagefault()
		address &^= memimage.PageSize - 1
		if _, err := memory.ReadAt(page, int64(address-base)); err != nil {
			return fmt.Errorf("read a page: %w", err)
		}
		if err := fd.Copy(address, page, 0).Err(); err != nil {
			return err
		}
	}
}
