package ref

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/uffd"
)

// VMM is a running VMM whose memory, one region, is absent until a handler serves
// it. Its methods are for one goroutine at a time. It ends with Kill, or with the
// program that started it.
type VMM struct {
	process
	in   io.WriteCloser
	base uint64
	size uint64
}

// StartVMM runs a VMM with memory of size bytes, a multiple of 4096. It may use
// userfaultfd wherever its user may, at least for faults of user code.
func (p Programs) StartVMM(size uint64) (*VMM, error) {
	v := &VMM{process: newProcess(p.VMM, strconv.FormatUint(size, 10)), size: size}
	var err error
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the reference vmm: %w", err)
	}
	ready, err := v.start()
	if err != nil {
		return nil, err
	}
	if v.base, err = strconv.ParseUint(strings.TrimSpace(ready), 10, 64); err != nil {
		return nil, v.gone(err)
	}
	return v, nil
}

// Base is the address of its memory.
func (v *VMM) Base() uint64 { return v.base }

// Handshake sends the userfaultfd and the region to whoever listens at socket.
func (v *VMM) Handshake(socket string) error {
	if _, err := fmt.Fprintf(v.in, "connect %s\n", socket); err != nil {
		return v.gone(err)
	}
	if _, err := v.out.ReadString('\n'); err != nil {
		return v.gone(err)
	}
	return nil
}

// TakeFD makes the handshake with the caller, through a socket below dir, and returns
// the userfaultfd, which the caller closes.
func (v *VMM) TakeFD(dir string) (*uffd.FD, error) {
	path := filepath.Join(dir, fmt.Sprintf("take-%d.sock", v.Pid()))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("take the userfaultfd of the reference vmm: %w", err)
	}
	defer listener.Close()
	if err := v.Handshake(path); err != nil {
		return nil, err
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("take the userfaultfd of the reference vmm: %w", err)
	}
	defer conn.Close()
	_, fds, err := uffd.ReceiveFDs(conn, make([]byte, os.Getpagesize()))
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		uffd.CloseAll(fds)
		return nil, fmt.Errorf("the reference vmm sent %d descriptors instead of 1", len(fds))
	}
	return uffd.NewFD(fds[0])
}

// Touch loads a word at each offset, one after the other, and returns what each load
// took.
func (v *VMM) Touch(offsets []uint64) ([]time.Duration, error) {
	command := fmt.Appendf(nil, "touch %d\n", len(offsets))
	for _, offset := range offsets {
		command = binary.NativeEndian.AppendUint64(command, offset)
	}
	answer := make([]byte, 8*len(offsets))
	_, err := v.in.Write(command)
	if err == nil {
		_, err = io.ReadFull(v.out, answer)
	}
	if err != nil {
		return nil, v.gone(err)
	}
	times := make([]time.Duration, len(offsets))
	for i := range times {
		times[i] = time.Duration(binary.NativeEndian.Uint64(answer[8*i:]))
	}
	return times, nil
}

// Sum returns the hash of its memory. What is absent still is faulted in.
func (v *VMM) Sum() (sum [sha256.Size]byte, err error) {
	if _, err := io.WriteString(v.in, "dump\n"); err != nil {
		return sum, v.gone(err)
	}
	hash := sha256.New()
	if _, err := io.CopyN(hash, v.out, int64(v.size)); err != nil {
		return sum, v.gone(err)
	}
	hash.Sum(sum[:0])
	return sum, nil
}
