package faulter

import (
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/faultline-vm/faultline/uffd"
)

// child is the state of the child process.
type child struct {
	fd      *uffd.FD
	memory  memory
	control *net.UnixConn
	started time.Time
	threads [MaxThreads]chan request // used by the reader of requests alone

	writing sync.Mutex // protects encoder
	encoder *gob.Encoder

	mu    sync.Mutex // protects conns
	conns []*net.UnixConn
}

// runChild obeys the requests of in until it ends.
func runChild(in io.Reader, out io.Writer) error {
	decoder := gob.NewDecoder(in)
	c := &child{encoder: gob.NewEncoder(out), started: time.Now()}
	var config setup
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	var hello greeting
	err := c.setUp(config, &hello)
	hello.Err = newFailure(err)
	if err := c.encoder.Encode(hello); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	for {
		var r request
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the parent is done with us, or dead
		}
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		c.dispatch(r)
	}
}

// setUp maps and registers memory in the order in which Firecracker does it.
func (c *child) setUp(config setup, hello *greeting) error {
	conn, err := net.FileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	c.control = conn.(*net.UnixConn)
	if c.memory, err = mapRegions(config.Regions); err != nil {
		return err
	}
	hello.Regions = c.memory.regions()
	if config.UserModeOnly {
		hello.UserModeOnly = true
		c.fd, err = uffd.Open(uffd.Options{UserModeOnly: true})
	} else {
		c.fd, hello.UserModeOnly, err = uffd.OpenBest()
	}
	if err != nil {
		return err
	}
	if _, err := c.fd.API(config.Features); err != nil {
		return err
	}
	for _, r := range hello.Regions {
		if _, err := c.fd.Register(uffd.Range{Start: r.Address, Len: r.Size}, config.Mode); err != nil {
			return err
		}
	}
	return nil
}

// dispatch finds a thread for the request; it does not wait for it.
func (c *child) dispatch(r request) {
	if r.Op != opTouch {
		go c.onThread(func() { c.answer(r) })
		return
	}
	if r.Thread < 0 || r.Thread >= len(c.threads) {
		c.respond(response{ID: r.ID}, fmt.Errorf("thread %d; use 0 to %d", r.Thread, len(c.threads)-1))
		return
	}
	if c.threads[r.Thread] == nil {
		// Deep enough that the reader of requests is never held up by a thread
		// that waits in a fault, as long as tests stay modest.
		queue := make(chan request, 1024)
		c.threads[r.Thread] = queue
		go c.onThread(func() {
			for r := range queue {
				c.answer(r)
			}
		})
	}
	c.threads[r.Thread] <- r
}

// onThread runs work on an operating system thread of its own, where SIGBUS is a
// panic that can be recovered from.
func (c *child) onThread(work func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	debug.SetPanicOnFault(true)
	work()
}

func (c *child) answer(r request) {
	answer := response{ID: r.ID}
	err := c.obey(r, &answer)
	c.respond(answer, err)
}

func (c *child) respond(answer response, err error) {
	answer.Err = newFailure(err)
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.encoder.Encode(answer); err != nil {
		// Without a parent there is nothing left to do.
		fmt.Fprintln(os.Stderr, "faulter: response:", err)
		os.Exit(1)
	}
}

// obey does what a request says. An access that ends in SIGBUS is an error.
func (c *child) obey(r request, answer *response) (err error) {
	defer recoverBus(&err)
	switch r.Op {
	case opSendFD:
		return c.fd.Use(func(raw int) error { return uffd.SendFD(c.control, []byte{0}, raw) })
	case opCloseFD:
		return c.fd.Close()
	case opHandshake:
		return c.handshake(r.Path, r.Raw)
	case opHangUp:
		return c.hangUp()
	case opTouch:
		answer.Latencies, err = c.touch(r.Pages, r.Store)
		return err
	case opRead:
		data := make([]byte, 0, r.Length)
		err := c.memory.eachPage(r.Offset, r.Length, func(part []byte) error {
			data = append(data, part...)
			return nil
		})
		answer.Data = data
		return err
	case opWrite:
		data := r.Data
		return c.memory.eachPage(r.Offset, uint64(len(data)), func(part []byte) error {
			data = data[copy(part, data):]
			return nil
		})
	case opRemove:
		return c.memory.each(r.Offset, r.Length, discard)
	case opSum:
		hash := sha256.New()
		err := c.memory.eachPage(r.Offset, r.Length, func(part []byte) error {
			hash.Write(part)
			return nil
		})
		answer.Data = hash.Sum(nil)
		return err
	default:
		return fmt.Errorf("unknown operation %d", r.Op)
	}
}

// touch measures each access alone. Everything it needs is made before the
// first, so that nothing but the fault is measured.
func (c *child) touch(offsets []uint64, store bool) ([]time.Duration, error) {
	words := make([]*uint64, len(offsets))
	for i, offset := range offsets {
		word, err := c.memory.word(offset)
		if err != nil {
			return nil, err
		}
		words[i] = word
	}
	latencies := make([]time.Duration, len(words))
	for i, word := range words {
		before := time.Since(c.started)
		if store {
			storeWord(word, offsets[i])
		} else {
			loadWord(word)
		}
		latencies[i] = time.Since(c.started) - before
	}
	return latencies, nil
}

// recoverBus turns the panic of an access that met SIGBUS into an error, and
// lets any other panic go on.
func recoverBus(err *error) {
	switch cause := recover().(type) {
	case nil:
	case interface{ Addr() uintptr }:
		*err = &BusError{Address: uint64(cause.Addr())}
	default:
		panic(cause)
	}
}
